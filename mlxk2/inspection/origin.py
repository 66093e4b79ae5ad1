"""Is a cloned folder still what was cloned? Quick, as `git status` is: a file whose length and time are the same is the same.

Only a file whose time alone is another is hashed; a deep check hashes all. Knows no cache and no network.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from stat import S_ISREG
from typing import NamedTuple

from mlxk2.events import Progress
from mlxk2.inspection.content_hash import OK, Blob, content_findings, hash_blobs
from mlxk2.inspection.files import FileEntry, ModelFiles
from mlxk2.inspection.integrity import Finding
from mlxk2.store.model_ref import WORKSPACE
from mlxk2.store.origin import Origin, read_origin
from mlxk2.text import one_line

UNCHANGED, MODIFIED = "unchanged", "modified"

_OF_A_TOOL = ".DS_Store"


class OriginState(NamedTuple):
    """What was cloned, and which files were changed, added or removed since; fields are those of the JSON answer."""

    model: str
    revision: str | None
    content_hash: str
    status: str
    changed: tuple[str, ...]


class OriginCheck(NamedTuple):
    """`findings`: files whose content is another although their length and time are as cloned. Only a deep check has some."""

    state: OriginState
    findings: tuple[Finding, ...]


class _Comparison(NamedTuple):
    """What can be said without reading: other files, files of the same length and time, files of the same length."""

    changed: set[str]
    same: dict[Blob, str]
    doubtful: dict[Blob, str]


def check_origin(files: ModelFiles, *, deep: bool = False) -> Generator[Progress, None, OriginCheck | None]:
    """Hold a workspace against its sentinel; None where it has none. Units of Progress: bytes."""
    origin = read_origin(files.ref.path) if files.ref.kind == WORKSPACE else None
    if origin is None:
        return None
    changed, same, doubtful = _compare(files, origin)
    to_hash = {**doubtful, **same} if deep else doubtful
    outcomes = yield from hash_blobs(tuple(to_hash))
    changed.update(to_hash[blob] for blob, outcome in outcomes.items() if outcome != OK)
    state = OriginState(
        origin.model,
        origin.revision,
        origin.content_hash,
        MODIFIED if changed else UNCHANGED,
        tuple(sorted(one_line(name) for name in changed)),
    )
    return OriginCheck(state, content_findings({blob: outcomes[blob] for blob in same if blob in outcomes}))


def _compare(files: ModelFiles, origin: Origin) -> _Comparison:
    root = os.path.join(files.ref.path, "")
    present = {entry.path[len(root) :]: entry for entry in files.entries}
    added = {name for name in present if name not in origin.files and os.path.basename(name) != _OF_A_TOOL}
    found = _Comparison(added, {}, {})
    for name, cloned in origin.files.items():
        entry = present.get(name)
        mtime_ns = None if entry is None else _mtime_of(entry, cloned.size_bytes)
        if entry is None or mtime_ns is None:
            found.changed.add(name)
        else:
            place = found.same if mtime_ns == cloned.mtime_ns else found.doubtful
            place[Blob(entry, cloned.sha256)] = name
    return found


def _mtime_of(entry: FileEntry, size_bytes: int) -> int | None:
    """When a plain file of this length was written, in ns; None for one of another length, a link, or no file."""
    try:
        state = os.lstat(entry.path)
    except OSError:
        return None
    return state.st_mtime_ns if S_ISREG(state.st_mode) and state.st_size == size_bytes else None
