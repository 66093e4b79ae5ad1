"""What of a folder a push takes, and what it leaves out: one walk that reads names, sizes and small texts. Sends nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from stat import S_ISDIR, S_ISREG
from typing import NamedTuple

from mlxk2.errors import PushFailed
from mlxk2.inspection.files import DANGLING, NOT_A_FILE, UNREADABLE, FileEntry, read_small
from mlxk2.inspection.ignore import IGNORE_FILE, MOST_LINES, IgnoreRules
from mlxk2.inspection.secrets import LARGEST_TEXT_BYTES, suspect_content, suspect_name
from mlxk2.inspection.weights import is_weight
from mlxk2.text import one_line, printable

SECRET = "secret_suspected"
LINK_LEFT_OUT = "link_left_out"
NAME_LEFT_OUT = "name_left_out"

_LARGEST_IGNORE_FILE = 256 * 1024


class LocalFile(NamedTuple):
    """A file to push: its path in the repository, where its content lies, and what tells whether it is still that."""

    path: str
    place: str
    size_bytes: int
    identity: tuple[int, ...] = ()

    @property
    def is_as_seen(self) -> bool:
        """Whether this is still the file that was looked at."""
        try:
            return identity_of(self.place) == self.identity
        except OSError:
            return False


def identity_of(place: str) -> tuple[int, ...]:
    """What changes when a file, or what lies behind a link, is replaced or written. Raises: OSError."""
    link, state = os.lstat(place), os.stat(place)
    return (link.st_ino, link.st_mtime_ns, state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)


class LeftOut(NamedTuple):
    """Something that is not pushed though no line asks for that, and why. Its place on the Hub is left alone too."""

    path: str
    code: str
    message: str


@dataclass(frozen=True)
class UploadSet:
    """`entries` describes the same files for the health check, those included that cannot be read."""

    files: tuple[LocalFile, ...]
    entries: tuple[FileEntry, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def total_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    @property
    def unreadable(self) -> tuple[str, ...]:
        """Paths that cannot be read: a push without them would delete them on the Hub."""
        return tuple(entry.name for entry in self.entries if entry.problem == UNREADABLE)

    def keeps(self, path: str) -> bool:
        """Tell whether a path on the Hub belongs to something that was left out, and so must stay as it is."""
        parts = path.split("/")
        return any("/".join(parts[:end]) in self._not_taken for end in range(1, len(parts) + 1))

    @cached_property
    def _not_taken(self) -> frozenset[str]:
        unusable = (entry.name for entry in self.entries if entry.problem is not None)
        return frozenset((*(left.path for left in self.left_out), *unusable))


class _Found:
    """What the walk has found so far."""

    def __init__(self, root: str, rules: IgnoreRules) -> None:
        self.root = root
        self.rules = rules
        self.files: list[LocalFile] = []
        self.entries: list[FileEntry] = []
        self.left_out: list[LeftOut] = []

    def leave_out(self, path: str, code: str, message: str) -> None:
        self.left_out.append(LeftOut(path, code, message))

    def unusable(self, path: str, place: str, problem: str) -> None:
        self.entries.append(FileEntry(path, place, None, 0.0, (0, 0), problem))


def scan_folder(root: str) -> UploadSet:
    """Walk a folder; links are followed to files inside of it only.

    Raises: PushFailed where the folder itself, or its .hfignore, cannot be used.
    """
    root = os.path.realpath(root)
    found = _Found(root, IgnoreRules(_ignore_lines(root)))
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        for entry in _listed(found, prefix):
            path = prefix + entry.name
            if not _is_plain(path):
                found.leave_out(one_line(path), NAME_LEFT_OUT, f"{one_line(path)}: a name that the Hub cannot have")
            elif entry.is_dir(follow_symlinks=False):
                if not found.rules.ignores(path, is_folder=True):
                    waiting.append(path + "/")
            elif not found.rules.ignores(path, is_folder=False):
                _take(found, path, entry)
    return UploadSet(tuple(sorted(found.files)), tuple(sorted(found.entries)), tuple(sorted(found.left_out)))


def _ignore_lines(root: str) -> list[str]:
    """Read .hfignore. Raises: PushFailed: what it holds back must not be pushed because it could not be read."""
    place = os.path.join(root, IGNORE_FILE)
    if not os.path.lexists(place):
        return []
    raw = None
    try:
        state = os.stat(place)
        if S_ISREG(state.st_mode):
            raw = read_small(FileEntry(IGNORE_FILE, place, state.st_size, 0.0, (0, 0)), _LARGEST_IGNORE_FILE)
    except OSError:
        pass
    if raw is not None and b"\0" in raw:
        raw = None  # UTF-16, in which no line would fit anything
    lines = [] if raw is None else raw.decode("utf-8-sig", "surrogateescape").splitlines()
    if raw is None or len(lines) > MOST_LINES:
        raise PushFailed(
            f"{IGNORE_FILE} cannot be used: it is no readable text of at most {MOST_LINES} lines",
            hint=f"mend or remove {IGNORE_FILE}",
        )
    return lines


def _listed(found: _Found, prefix: str) -> Iterator[os.DirEntry[str]]:
    folder = os.path.join(found.root, prefix)
    try:
        with os.scandir(folder) as listing:
            yield from sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        if not prefix:
            raise PushFailed(f"the folder cannot be read: {error.strerror}") from error
        found.unusable(prefix[:-1], folder, UNREADABLE)


def _is_plain(path: str) -> bool:
    """Tell whether a name can be in a repository: text, on one line, that no system takes for another path."""
    is_text = printable(path) == path and not any("\ud800" <= letter <= "\udfff" for letter in path)
    return is_text and not any(letter in path for letter in "\\\n\t")


def _take(found: _Found, path: str, entry: os.DirEntry[str]) -> None:
    """Decide about one file or link."""
    kind = suspect_name(path)
    if entry.is_symlink():
        refusal, target_kind = _judge_link(found, entry.path)
        if refusal is not None:
            found.leave_out(path, LINK_LEFT_OUT, f"{path}: {refusal}")
            return
        kind = kind or target_kind
    if kind is not None and not found.rules.releases(path):
        found.leave_out(path, SECRET, _secret(path, kind))
        return
    try:
        state = entry.stat()
    except OSError:
        found.unusable(path, entry.path, DANGLING if entry.is_symlink() else UNREADABLE)
        return
    if not S_ISREG(state.st_mode):
        found.unusable(path, entry.path, NOT_A_FILE)
        return
    described = FileEntry(path, entry.path, state.st_size, state.st_mtime, (state.st_dev, state.st_ino))
    _take_content(found, described)


def _judge_link(found: _Found, place: str) -> tuple[str | None, str | None]:
    """Say why a link is not followed, or None; and what its target seems to be by its name."""
    target = os.path.realpath(place)
    try:
        is_folder = S_ISDIR(os.stat(place).st_mode)
    except OSError:
        # A dangling link is named as such, wherever it leads.
        return None, None
    if not target.startswith(found.root + os.sep):
        return "a link that leaves the folder; `mlxk2 clone` makes folders without links", None
    if is_folder:
        return "a link to a folder", None
    inside = os.path.relpath(target, found.root).replace(os.sep, "/")
    if found.rules.ignores_in_full(inside):
        return "a link to a file that is ignored", None
    return None, suspect_name(inside)


def _take_content(found: _Found, entry: FileEntry) -> None:
    size = entry.size_bytes or 0
    identity = identity_of(entry.path)
    if not os.access(entry.path, os.R_OK):
        found.unusable(entry.name, entry.path, UNREADABLE)
        return
    if size <= LARGEST_TEXT_BYTES and not is_weight(entry.name) and not found.rules.releases(entry.name):
        kind = suspect_content(read_small(entry, LARGEST_TEXT_BYTES) or b"")
        if kind is not None:
            found.leave_out(entry.name, SECRET, _secret(entry.name, kind))
            return
    found.files.append(LocalFile(entry.name, entry.path, size, identity))
    found.entries.append(entry)


def _secret(path: str, kind: str) -> str:
    return f"{path}: held back, it seems to hold a secret ({kind}); a line `!{path}` in {IGNORE_FILE} lets it go"
