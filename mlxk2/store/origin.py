"""The sentinel file of a cloned folder: which model and revision it was, and the hash of every file then.

What is read back is not trusted: anything but a file of our own making counts as none. Judges nothing.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from stat import S_ISREG
from typing import Any, NamedTuple

from mlxk2.store.layout import is_commit, name_problem
from mlxk2.text import one_line

SENTINEL_FILE = ".mlxk2-workspace.json"

_VERSION = 1
_LARGEST_BYTES = 16 * 2**20
_MOST_DIGITS = 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FIELDS = ("size", "sha256", "mtime_ns")


class OriginFile(NamedTuple):
    """A file as it was cloned. Units: bytes; nanoseconds since 1970."""

    size_bytes: int
    sha256: str
    mtime_ns: int


class Origin(NamedTuple):
    """Where a folder comes from. `files` maps relative names, with "/", to what they were."""

    model: str
    revision: str | None
    files: Mapping[str, OriginFile]

    @property
    def content_hash(self) -> str:
        """One hash for all of it: sha256 over the sorted lines `sha256-of-file  path`."""
        import hashlib

        lines = sorted(f"{file.sha256}  {name}\n" for name, file in self.files.items())
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def write_origin(folder: Path, origin: Origin, created: str) -> None:
    """Put the sentinel into a folder; `created` is a UTC timestamp. Raises: OSError."""
    content = {
        "version": _VERSION,
        "origin": {"model": origin.model, "revision": origin.revision},
        "content_hash": origin.content_hash,
        "files": {name: dict(zip(_FIELDS, file)) for name, file in sorted(origin.files.items())},
        "created": created,
    }
    with open(folder / SENTINEL_FILE, "x", encoding="utf-8") as file:
        file.write(json.dumps(content, indent=2) + "\n")


def read_origin(folder: Path) -> Origin | None:
    """Read the sentinel of a folder; None where there is none, or none that this program wrote."""
    raw = _read(os.path.join(folder, SENTINEL_FILE))
    if raw is None:
        return None
    try:
        content = json.loads(raw, parse_int=_whole)
        return _origin(content)
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        return None


def _read(path: str) -> bytes | None:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        state = os.fstat(handle)
        if not S_ISREG(state.st_mode) or state.st_size > _LARGEST_BYTES:
            return None
        with open(handle, "rb", closefd=False) as file:
            return file.read(_LARGEST_BYTES)
    except OSError:
        return None
    finally:
        os.close(handle)


def _whole(digits: str) -> int:
    """Refuse numbers that would take for ever to convert. Raises: ValueError."""
    if len(digits) > _MOST_DIGITS:
        raise ValueError("a number of too many digits")
    return int(digits)


def _origin(content: Any) -> Origin | None:
    """Check what was parsed, the sum over all files included. Raises: as values of any other shape do."""
    if content["version"] != _VERSION:
        return None
    model, revision = content["origin"]["model"], content["origin"]["revision"]
    if name_problem(model) is not None or one_line(model) != model:
        return None
    if revision is not None and not is_commit(revision):
        return None
    files = {name: _file(name, fields) for name, fields in content["files"].items()}
    origin = Origin(model, revision, files)
    return origin if origin.content_hash == content["content_hash"] else None


def _file(name: str, fields: Any) -> OriginFile:
    size, sha256, mtime_ns = (fields[field] for field in _FIELDS)
    is_number = type(size) is int and type(mtime_ns) is int and size >= 0
    if not is_number or not _SHA256.fullmatch(sha256) or not _stays_inside(name):
        raise ValueError(name)
    return OriginFile(size, sha256, mtime_ns)


def _stays_inside(name: str) -> bool:
    parts = name.split("/")
    return not any(part in ("", ".", "..") for part in parts) and not any(letter in name for letter in "\\\0\n")
