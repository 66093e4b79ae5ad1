"""What a pull would do: which files are chosen, which of them are there, and whether the rest fits. Changes nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from mlxk2.errors import InsufficientSpace, UsageError
from mlxk2.events import Event
from mlxk2.hub.digest import is_intact
from mlxk2.hub.partial import bytes_present, partial_path
from mlxk2.hub.remote import RemoteFile
from mlxk2.operations.pull_target import PullRequest
from mlxk2.store.snapshot_writer import RepoWriter
from mlxk2.units import format_size

DOWNLOAD, RESUME, REUSE, SKIP = "download", "resume", "reuse", "skip"

# What a file system takes for itself, and what others write meanwhile.
_SPARE_BYTES = 64 * 2**20
_SPARE_SHARE = 100


@dataclass(frozen=True)
class PlannedFile:
    """One file and what happens to it. `bytes_present` of it lie on the disk."""

    remote: RemoteFile
    action: str
    bytes_present: int


@dataclass(frozen=True)
class PullPlan:
    """All files of a revision. Sums count a blob that several files share once. Units: bytes."""

    files: tuple[PlannedFile, ...]

    @property
    def chosen(self) -> tuple[PlannedFile, ...]:
        return tuple(file for file in self.files if file.action != SKIP)

    @property
    def to_fetch(self) -> tuple[RemoteFile, ...]:
        """The files whose content is missing or wrong, each content once."""
        return tuple(file.remote for file in self._blobs() if file.action in (DOWNLOAD, RESUME))

    @property
    def bytes_total(self) -> int:
        return sum(file.remote.size_bytes for file in self._blobs())

    @property
    def bytes_present(self) -> int:
        return sum(file.bytes_present for file in self._blobs())

    def _blobs(self) -> list[PlannedFile]:
        return list({file.remote.digest: file for file in self.chosen}.values())


def compare(
    files: tuple[RemoteFile, ...], request: PullRequest, writer: RepoWriter, *, deep: bool
) -> Generator[Event, None, PullPlan]:
    """Hold the Hub's files against the cache; `deep` hashes what is there instead of trusting its name and length.

    Raises: UsageError where no file is chosen, OSError.
    """
    planned, known = [], dict[str, PlannedFile]()
    for file in files:
        if not _is_chosen(file.path, request):
            planned.append(PlannedFile(file, SKIP, 0))
            continue
        if file.digest not in known:
            known[file.digest] = yield from _planned(file, writer.blob(file.digest), deep=deep)
        found = known[file.digest]
        planned.append(PlannedFile(file, found.action, found.bytes_present))
    plan = PullPlan(tuple(planned))
    if files and not plan.chosen:
        raise UsageError("--include and --exclude leave no file", hint="quote patterns: --include '*.json'")
    return plan


def check_space(plan: PullPlan, hub: Path) -> None:
    """Raise InsufficientSpace, with both figures, where what is to come does not fit on the cache's volume."""
    needed = plan.bytes_total - plan.bytes_present
    if not needed:
        return
    needed += max(_SPARE_BYTES, needed // _SPARE_SHARE)
    place = hub
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        raise InsufficientSpace(
            f"the download needs {format_size(needed, ' ')}, but only {format_size(free, ' ')} are free",
            hint="mlxk2 rm MODEL frees space; HF_HOME moves the cache to another volume",
            detail={"needed_bytes": needed, "free_bytes": free},
        )


def _is_chosen(path: str, request: PullRequest) -> bool:
    if any(_fits(path, pattern) for pattern in request.exclude):
        return False
    return not request.include or any(_fits(path, pattern) for pattern in request.include)


def _fits(path: str, pattern: str) -> bool:
    """As `hf` reads patterns: `*` crosses slashes, and a folder means all that is in it."""
    return fnmatchcase(path, pattern + "*" if pattern.endswith("/") else pattern)


def _planned(file: RemoteFile, blob: Path, *, deep: bool) -> Generator[Event, None, PlannedFile]:
    if _has_length(blob, file.size_bytes):
        intact = (yield from is_intact(blob, file)) if deep else True
        if intact:
            return PlannedFile(file, REUSE, file.size_bytes)
    present = bytes_present(partial_path(blob), file.size_bytes)
    return PlannedFile(file, RESUME if present else DOWNLOAD, present)


def _has_length(blob: Path, size_bytes: int) -> bool:
    try:
        return os.path.isfile(blob) and os.path.getsize(blob) == size_bytes
    except OSError:
        return False
