"""The files of a cached snapshot, each traced to the bytes it stands for. What a cache holds is not trusted.

A file is the snapshot's own, or a link to a blob of its repository, or of the store that repositories share; whatever
leads elsewhere is refused and never opened. Changes nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple

from mlxk2.errors import CloneOperationError
from mlxk2.store.layout import is_git_folder
from mlxk2.store.model_ref import ModelRef
from mlxk2.store.shared_blobs import STORE_FOLDER
from mlxk2.text import one_line, printable

_SHA256 = re.compile(r"[0-9a-f]{64}")
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class SourceFile(NamedTuple):
    """`name` is relative, with "/"; `path` has no link in it; `digest` is the hash that the Hub names its content by.

    That is a sha256, or git's sha1 for a small file; None where the file is no blob of the repository.
    """

    name: str
    path: str
    size_bytes: int
    digest: str | None

    @property
    def sha256(self) -> str | None:
        return self.digest if self.digest is not None and len(self.digest) == 64 else None


def snapshot_files(ref: ModelRef, hub: Path) -> tuple[SourceFile, ...]:
    """List everything that a snapshot holds, sorted by name.

    Raises: CloneOperationError for a link that dangles or leads out, what is no file, and names that cannot be copied.
    """
    snapshot = _Snapshot(ref, hub)
    if not snapshot.is_inside():
        raise snapshot.refused("its snapshot", "lies outside of the model's folder in the cache")
    return tuple(sorted(snapshot.files()))


class _Snapshot:
    """A snapshot, and the two places that its links may lead to."""

    def __init__(self, ref: ModelRef, hub: Path) -> None:
        self._ref = ref
        self._repository = os.path.realpath(ref.path.parent.parent)
        self._blobs = os.path.join(self._repository, "blobs")
        self._shared = os.path.join(os.path.realpath(hub), STORE_FOLDER)

    def is_inside(self) -> bool:
        """Tell whether the snapshot is a folder of its own repository."""
        own = os.path.join(self._repository, "snapshots", self._ref.path.name)
        return os.path.realpath(self._ref.path) == own

    def files(self) -> Iterator[SourceFile]:
        waiting = [(str(self._ref.path), "")]
        while waiting:
            folder, prefix = waiting.pop()
            for entry in self._listed(folder, prefix):
                name = prefix + entry.name
                self._check_name(name)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((entry.path, name + "/"))
                else:
                    yield self._traced(name, entry)

    def refused(self, what: str, problem: str) -> CloneOperationError:
        name = self._ref.name
        return CloneOperationError(
            f"{name} cannot be copied: {what} {problem}",
            hint=f"mlxk2 rm {name} removes the model, mlxk2 pull {name} fetches it anew",
        )

    def _listed(self, folder: str, prefix: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                return list(entries)
        except OSError as error:
            raise self.refused(
                f"'{one_line(prefix) or 'its snapshot'}'", f"cannot be read: {error.strerror}"
            ) from error

    def _check_name(self, name: str) -> None:
        is_text = printable(name) == name and not any("\ud800" <= letter <= "\udfff" for letter in name)
        if not is_text or any(letter in name for letter in "\\\n\t"):
            raise self.refused(f"'{one_line(name)}'", "has a name that not every system can hold")
        if is_git_folder(name.rsplit("/", 1)[-1]):
            raise self.refused(f"'{one_line(name)}'", "is git's own, and could run code")

    def _traced(self, name: str, entry: os.DirEntry[str]) -> SourceFile:
        shown = f"'{one_line(name)}'"
        try:
            path = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
            state = os.lstat(path)
        except OSError as error:
            raise self.refused(shown, "is a link to nothing" if entry.is_symlink() else "cannot be read") from error
        if entry.is_symlink() and not self._is_blob(path):
            raise self.refused(shown, "is a link that leads out of the model")
        if not S_ISREG(state.st_mode):
            raise self.refused(shown, "is no regular file")
        return SourceFile(name, path, state.st_size, self._known_hash(entry))

    def _is_blob(self, path: str) -> bool:
        folder, name = os.path.split(path)
        is_shared = _SHA256.fullmatch(name) is not None and folder == os.path.join(self._shared, name[:2])
        return folder == self._blobs or is_shared

    def _known_hash(self, entry: os.DirEntry[str]) -> str | None:
        """The repository's own blob has the Hub's hash as its name."""
        if not entry.is_symlink():
            return None
        try:
            folder, name = os.path.split(os.readlink(entry.path))
        except OSError as error:
            raise self.refused(f"'{one_line(entry.name)}'", "was taken away meanwhile") from error
        is_own = os.path.realpath(os.path.join(os.path.dirname(entry.path), folder)) == self._blobs
        return name if is_own and _DIGEST.fullmatch(name) else None
