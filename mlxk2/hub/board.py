"""Which parts of which files are still to be fetched: handed out to several threads, taken back when a try fails."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from mlxk2.errors import MlxkError
from mlxk2.hub.digest import hasher_of
from mlxk2.hub.partial import SMALL_BYTES, PartialFile, partial_path
from mlxk2.hub.remote import RemoteFile

WHOLE = -1


class Job:
    """One file on its way. `url` answers, or points to where the bytes lie: `location`, until that expires."""

    def __init__(self, file: RemoteFile, url: str, blob: Path) -> None:
        self.file = file
        self.url = url
        self.blob = blob
        self.location: str | None = None
        self.part: PartialFile | None = None
        self.pending: deque[int] = deque()
        self.out: set[int] = set()
        self.resumed_bytes = 0
        self.takes_ranges = True
        self.failures: dict[int, int] = {}
        self.mismatches: dict[int, int] = {}
        self.hasher = hasher_of(file)
        self.hashed = 0
        self.is_done = False

    @property
    def is_small(self) -> bool:
        return self.file.size_bytes <= SMALL_BYTES

    @property
    def partial_path(self) -> Path:
        return partial_path(self.blob)

    @property
    def is_full(self) -> bool:
        """Whether all bytes are there, right or wrong."""
        return self.part is None or self.part.frontier == self.file.size_bytes

    def opened(self) -> PartialFile:
        """The file's bytes so far. Only for files that are not small, once they were handed out."""
        assert self.part is not None
        return self.part

    def begin(self, connections: int) -> None:
        """Find out what is there, and so what is missing. Raises: OSError."""
        if self.is_small:
            self.pending.append(WHOLE)
            return
        part = PartialFile(self.partial_path, self.file.size_bytes, connections)
        self.part = part
        self.resumed_bytes = part.bytes_present
        self.pending.extend(piece for piece in range(part.pieces) if part.missing(piece)[0] < part.missing(piece)[1])

    def begin_anew(self) -> None:
        """Throw away what arrived. Raises: OSError."""
        self.resumed_bytes = 0
        self.hasher, self.hashed = hasher_of(self.file), 0
        self.pending.clear()
        if self.part is None or not self.takes_ranges:
            self.pending.append(WHOLE)
        else:
            self.pending.extend(range(self.part.pieces))
        if self.part is not None:
            self.part.forget()


class Unit(NamedTuple):
    """What one request fetches: a piece of a file, or the `WHOLE` of it."""

    job: Job
    piece: int


class Board:
    """Hands out units, small files first, then file after file. `error` is the one that ended the work."""

    def __init__(self, jobs: Sequence[Job], connections: int) -> None:
        self._waiting = deque(sorted(jobs, key=lambda job: not job.is_small))
        self._connections = connections
        self._current: deque[Job] = deque()
        self._unfinished = len(jobs)
        self._lost = 0
        self._changed = threading.Condition()
        self._ended = False
        self.error: MlxkError | None = None

    @property
    def lost_bytes(self) -> int:
        """How much of what was there before had to be thrown away."""
        return self._lost

    @property
    def is_complete(self) -> bool:
        """Whether every file has its final name."""
        return self._unfinished == 0

    @property
    def ended(self) -> bool:
        return self._ended or self.is_complete

    def ends_within(self, seconds: float) -> bool:
        """Wait so long for the end of the work; tells whether it came."""
        with self._changed:
            return self._changed.wait_for(lambda: self.ended, timeout=seconds)

    def claim(self, complete: Callable[[Job], None]) -> Unit | None:
        """Wait for something to fetch; None when nothing will come. `complete(job)` hears of files that are all there.

        Raises: OSError where a file cannot be begun.
        """
        with self._changed:
            while not self.ended:
                unit = self._next(complete)
                if unit is not None:
                    return unit
                self._changed.wait()
        return None

    def give_back(self, unit: Unit) -> None:
        """Let somebody else try."""
        with self._changed:
            if unit.piece == WHOLE or unit.job.takes_ranges:
                unit.job.pending.appendleft(unit.piece)
            self._returned(unit)

    def done(self, unit: Unit) -> None:
        """Note that a unit is where it belongs."""
        with self._changed:
            self._returned(unit)

    def fetch_whole(self, unit: Unit) -> None:
        """Fetch this file in one go from now on: its server knows no ranges."""
        with self._changed:
            unit.job.takes_ranges = False
            unit.job.pending.clear()
            self._returned(unit)

    def _returned(self, unit: Unit) -> None:
        job = unit.job
        job.out.discard(unit.piece)
        # One writer at a time: the whole file only when no part of it is on its way any more.
        if not job.takes_ranges and not job.out and not job.pending and not job.is_full:
            job.pending.append(WHOLE)
        self._offer(job)

    def again(self, job: Job) -> None:
        """Fetch a file once more from its start. Raises: OSError."""
        with self._changed:
            self._lost += job.resumed_bytes
            job.begin_anew()
            self._offer(job)

    def finished(self, job: Job) -> None:
        """Note that a file has its final name."""
        with self._changed:
            self._unfinished -= 1
            self._changed.notify_all()

    def end(self, error: MlxkError | None = None) -> None:
        """Hand out nothing any more; the first error counts."""
        with self._changed:
            self._ended = True
            self.error = self.error or error
            self._changed.notify_all()

    def _offer(self, job: Job) -> None:
        if job not in self._current:
            self._current.appendleft(job)
        self._changed.notify_all()

    def _next(self, complete: Callable[[Job], None]) -> Unit | None:
        while self._current or self._waiting:
            if not self._current:
                job = self._waiting.popleft()
                job.begin(self._connections)
                if not job.pending:
                    complete(job)
                self._current.append(job)
            job = self._current[0]
            if job.pending:
                piece = job.pending.popleft()
                job.out.add(piece)
                return Unit(job, piece)
            self._current.popleft()
        return None
