"""The files of one model folder, and its small text files, each read at most once. Judges nothing.

Nothing here raises for what a folder may hold: a file that cannot be used is an entry, or a value, that says so.
"""

from __future__ import annotations

import json
import os
from functools import cached_property
from stat import S_ISDIR, S_ISREG
from typing import Any, NamedTuple, Union

from mlxk2.inspection.front_matter import FrontMatter, parse_front_matter
from mlxk2.inspection.safetensors import HeaderError, SafetensorsHeader, read_header
from mlxk2.store.model_ref import ModelRef
from mlxk2.store.origin import SENTINEL_FILE
from mlxk2.text import one_line

CONFIG_MISSING = "config.json missing"
CONFIG_UNUSABLE = "config.json is empty or invalid"
CONFIG_NO_JSON = "config.json contains invalid JSON"

DANGLING = "dangling"
UNREADABLE = "unreadable"
FOLDER_LINK = "link to a folder"
NOT_A_FILE = "no regular file"

MAX_CONFIG_BYTES = 16 * 2**20
MAX_JSON_BYTES = 64 * 2**20
_FRONT_MATTER_BYTES = 16 * 1024

# Folders of tools; what lies in them is no part of the model, and neither is the sentinel of a clone.
_SKIPPED_FOLDERS = frozenset({".git", ".cache", "__pycache__", ".venv", "venv"})


class FileEntry(NamedTuple):
    """One file, or a link to a folder. `name` is relative, with "/", and one printable line.

    `size_bytes` is None where `problem` says why: DANGLING, UNREADABLE, FOLDER_LINK, or NOT_A_FILE (FIFO, device…).
    """

    name: str
    path: str
    size_bytes: int | None
    mtime: float
    identity: tuple[int, int]
    problem: str | None = None


Header = Union[SafetensorsHeader, HeaderError, OSError]


class ModelFiles:
    """Everything that inspection reads of one model.

    `problem` is UNREADABLE or DANGLING where the folder itself cannot be listed.
    """

    def __init__(self, ref: ModelRef, entries: tuple[FileEntry, ...], problem: str | None = None) -> None:
        self.ref = ref
        self.entries = entries
        self.problem = problem
        self.by_name = {entry.name: entry for entry in entries}

    @classmethod
    def read(cls, ref: ModelRef) -> ModelFiles:
        """Walk the folder of `ref`. Links to files are followed for their size, links to folders are not."""
        if ref.problem is not None:
            return cls(ref, ())
        try:
            return cls(ref, tuple(_walk(str(ref.path))))
        except (FileNotFoundError, NotADirectoryError):
            return cls(ref, (), DANGLING)
        except (OSError, ValueError):
            return cls(ref, (), UNREADABLE)

    @property
    def config(self) -> dict[str, Any] | None:
        """The parsed config.json; None where it is missing or cannot be used."""
        return self._config[0]

    @property
    def config_problem(self) -> str | None:
        """The contract's words for what is wrong with config.json, or None."""
        return self._config[1]

    @cached_property
    def _config(self) -> tuple[dict[str, Any] | None, str | None]:
        entry = self.by_name.get("config.json")
        if entry is None or entry.problem in {DANGLING, NOT_A_FILE}:
            return None, CONFIG_MISSING
        raw = read_small(entry, MAX_CONFIG_BYTES)
        if not raw or not raw.strip():
            return None, CONFIG_UNUSABLE
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError):
            return None, CONFIG_NO_JSON
        return (value, None) if isinstance(value, dict) and value else (None, CONFIG_UNUSABLE)

    @cached_property
    def tokenizer_config(self) -> dict[str, Any]:
        """The parsed tokenizer_config.json; empty where there is none that can be read."""
        value = self.json("tokenizer_config.json")
        return value if isinstance(value, dict) else {}

    @cached_property
    def generation_config(self) -> dict[str, Any]:
        """The parsed generation_config.json; empty where there is none that can be read."""
        value = self.json("generation_config.json")
        return value if isinstance(value, dict) else {}

    @cached_property
    def front_matter(self) -> FrontMatter:
        """What stands between the two lines of dashes at the top of README.md; only the first kilobytes are read."""
        entry = self.by_name.get("README.md")
        raw = None if entry is None else read_start(entry, _FRONT_MATTER_BYTES)
        return parse_front_matter(raw or b"")

    @cached_property
    def headers(self) -> dict[str, Header]:
        """Headers of all non-empty safetensors files by name; an error stands where one cannot be had."""
        found: dict[str, Header] = {}
        for entry in self.entries:
            if entry.size_bytes and entry.name.endswith(".safetensors"):
                try:
                    found[entry.name] = read_header(entry.path, entry.size_bytes)
                except (HeaderError, OSError) as problem:
                    found[entry.name] = problem
        return found

    def json(self, name: str) -> Any:
        """Parse a JSON file of the folder; None where it is missing, too big or no JSON."""
        entry = self.by_name.get(name)
        raw = None if entry is None else read_small(entry, MAX_JSON_BYTES)
        try:
            return None if not raw else json.loads(raw)
        except (ValueError, RecursionError):
            return None

    def has(self, name: str) -> bool:
        """Tell whether a file of this name is there and not empty."""
        entry = self.by_name.get(name)
        return entry is not None and bool(entry.size_bytes)


def is_part_of_model(name: str) -> bool:
    """Tell whether a file of this relative name would be listed here, rather than left to the tool that it belongs to."""
    return name != SENTINEL_FILE and not _SKIPPED_FOLDERS.intersection(name.split("/")[:-1])


def read_small(entry: FileEntry, limit: int) -> bytes | None:
    """Return a whole file; None where it is larger than `limit`, no regular file, or cannot be read."""
    if entry.size_bytes is None or entry.size_bytes > limit:
        return None
    return read_start(entry, limit)


def read_start(entry: FileEntry, limit: int) -> bytes | None:
    """Return at most `limit` bytes from the start of a file; None where it is no regular file or cannot be read."""
    if entry.size_bytes is None:
        return None
    wanted = min(entry.size_bytes, limit)
    try:
        handle = os.open(entry.path, os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, ValueError):
        return None
    try:
        data = os.read(handle, wanted)
        while len(data) < wanted:
            more = os.read(handle, wanted - len(data))
            if not more:
                break
            data += more
    except OSError:
        return None
    finally:
        os.close(handle)
    return data


def _walk(root: str) -> list[FileEntry]:
    """List the files below `root`. Raises: OSError where `root` itself cannot be listed."""
    found: list[FileEntry] = []
    waiting = [(root, "")]
    while waiting:
        folder, prefix = waiting.pop()
        try:
            with os.scandir(folder) as listing:
                entries = list(listing)
        except OSError:
            if not prefix:
                raise
            found.append(_unusable(prefix[:-1], folder, UNREADABLE))
            continue
        for entry in entries:
            name = prefix + entry.name
            if name == SENTINEL_FILE:
                continue
            if not entry.is_dir(follow_symlinks=False):
                found.append(_entry(name, entry))
            elif entry.name not in _SKIPPED_FOLDERS:
                waiting.append((entry.path, name + "/"))
    found.sort()
    return found


def _entry(name: str, entry: os.DirEntry[str]) -> FileEntry:
    try:
        state = entry.stat()
    except FileNotFoundError:
        return _unusable(name, entry.path, DANGLING)
    except OSError:
        # A loop of links and a link through a file dangle too; what is no link is only out of reach.
        return _unusable(name, entry.path, DANGLING if entry.is_symlink() else UNREADABLE)
    if S_ISDIR(state.st_mode):
        return _unusable(name + "/", entry.path, FOLDER_LINK)
    if not S_ISREG(state.st_mode):
        return _unusable(name, entry.path, NOT_A_FILE)
    return FileEntry(one_line(name), entry.path, state.st_size, state.st_mtime, (state.st_dev, state.st_ino))


def _unusable(name: str, path: str, problem: str) -> FileEntry:
    return FileEntry(one_line(name), path, None, 0.0, (0, 0), problem)
