"""Files of a revision into the blobs of the cache: several files and parts at a time, resumed, verified, bounded memory.

Threads fetch, others hash what has arrived without a gap; the caller's thread reports. A blob gets its final name
only after its hash was right. Knows no snapshot and no ref.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from queue import Empty, SimpleQueue

from mlxk2.errors import DownloadFailed, InsufficientSpace, MlxkError, PullFailed
from mlxk2.events import Event, Progress
from mlxk2.hub import retry
from mlxk2.hub.board import WHOLE, Board, Job, Unit
from mlxk2.hub.digest import BUFFER_BYTES
from mlxk2.hub.fetch import AddressExpired, Fetcher, NoRanges, TryAgain, WrongContent
from mlxk2.hub.translate import Subject, unreachable
from mlxk2.hub.transport import Transport
from mlxk2.text import one_line

CONNECTIONS = 8
# Where a few connections fill the line, more of them only cost; the others join one after the other.
_AT_ONCE = 3
_STAGGER_S = 0.1
_MOST_HASHERS = 4
# Beside the numbers of pieces, and WHOLE.
_HASH = -2
_REPORT_EVERY_S = 0.1
_PATIENCE_S = 0.5
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Download:
    """One download of several files, of `total` bytes of which `present` are there.

    `bytes_received` counts content that came over the network, repeats included.
    """

    def __init__(
        self, jobs: Sequence[Job], transport: Transport, subject: Subject, *, present: int, total: int
    ) -> None:
        self._jobs = tuple(jobs)
        self._present, self._total = present, total
        self._transport = transport
        self._subject = subject
        self._board = Board(self._jobs, CONNECTIONS)
        self._fetcher = Fetcher(transport, subject, self._received)
        self._count = 0
        self._count_lock = threading.Lock()
        hashers = min(os.cpu_count() or 1, _MOST_HASHERS)
        self._to_hash: tuple[SimpleQueue[Job | None], ...] = tuple(SimpleQueue() for _ in range(hashers))
        self._hasher = {job: self._to_hash[number % hashers] for number, job in enumerate(self._jobs)}
        self._stop = threading.Event()
        self._news: SimpleQueue[None] = SimpleQueue()
        self._in_flight: dict[str, Job] = {}

    @property
    def bytes_received(self) -> int:
        return self._count

    @property
    def bytes_lost(self) -> int:
        """How much of what was there before turned out to be wrong."""
        return self._board.lost_bytes

    def run(self) -> Generator[Event, None, None]:
        """Fetch everything. However it ends, no thread works on and what arrived is kept.

        Raises: DownloadFailed, AccessDenied, InsufficientSpace, PullFailed.
        """
        threads: list[threading.Thread] = []
        try:
            self._start(threads)
            while not self._board.ended:
                yield from self._report()
                self._wait()
            yield from self._report()
        finally:
            self._end(threads)
        if self._board.error is not None:
            raise self._board.error

    def _start(self, threads: list[threading.Thread]) -> None:
        starts = (max(number - _AT_ONCE + 1, 0) * _STAGGER_S for number in range(CONNECTIONS))
        work: list[tuple[Callable[..., None], tuple[object, ...]]] = [(self._fetch_units, (wait,)) for wait in starts]
        work += [(self._hash_jobs, (queue,)) for queue in self._to_hash]
        # Daemons: a thread that hangs in a name server must not keep the program from ending.
        for target, args in work:
            thread = threading.Thread(target=target, args=args, daemon=True)
            thread.start()
            threads.append(thread)

    def _end(self, threads: list[threading.Thread]) -> None:
        """Stop all threads, within a short time; what is still being read is cut off."""
        if not self._board.is_complete:
            self._stop.set()
            self._board.end()
            self._transport.abort()
        for queue in self._to_hash:
            queue.put(None)
        deadline = time.monotonic() + _PATIENCE_S
        for thread in threads:
            thread.join(max(deadline - time.monotonic(), 0.0))
        for job in self._jobs:
            if job.part is not None and not any(thread.is_alive() for thread in threads):
                job.part.close()

    def _wait(self) -> None:
        try:
            self._news.get(timeout=_REPORT_EVERY_S)
        except Empty:
            pass

    def _report(self) -> Generator[Event, None, None]:
        """Tell how far the whole is, and each large file."""
        yield Progress(min(self._present + self._count, self._total), self._total, "bytes")
        for path, job in list(self._in_flight.items()):
            if job.part is not None:
                done = job.file.size_bytes if job.hashed >= job.file.size_bytes else job.part.bytes_present
                yield Progress(done, job.file.size_bytes, "bytes", path)
                if done == job.file.size_bytes == job.hashed:
                    del self._in_flight[path]

    def _received(self, count: int) -> None:
        with self._count_lock:
            self._count += count

    @contextmanager
    def _ending_all(self) -> Iterator[None]:
        """Around the work of a thread: whatever it fails with ends the download, so that nobody waits for it."""
        failed = True
        try:
            yield
            failed = False
        except OSError as error:
            self._board.end(self._of_disk(error))
        finally:
            # No effect where there is an error already, or all is done.
            if failed:
                self._board.end(
                    PullFailed(
                        "a thread of the download failed", hint="this is a bug of MLX Knife; what arrived is kept"
                    )
                )
            self._news.put(None)

    # ---- threads that fetch

    def _fetch_units(self, wait_s: float) -> None:
        with self._ending_all():
            while not self._board.ends_within(wait_s):
                wait_s = 0.0
                unit = self._board.claim(self._complete)
                if unit is None:
                    return
                self._fetch(unit)

    def _fetch(self, unit: Unit) -> None:
        job = unit.job
        if not job.is_small:
            self._in_flight[job.file.path] = job
        before = _present(unit)
        try:
            self._fetcher.fetch(unit)
        except TryAgain as failure:
            job.failures[unit.piece] = 1 if _present(unit) > before else job.failures.get(unit.piece, 0) + 1
            self._try_again(unit, failure)
        except WrongContent as problem:
            # Nothing of it was kept, so the rest of the file stays as it is.
            self._ask_again(unit, f"the Hub sends {one_line(job.file.path)} with {problem}, not as it describes it")
        except AddressExpired:
            job.location = None
            self._board.give_back(unit)
        except NoRanges:
            self._board.fetch_whole(unit)
        except MlxkError as error:
            self._board.end(error)
        else:
            job.failures.pop(unit.piece, None)
            self._board.done(unit)
            if job.is_small:
                self._board.finished(job)
            else:
                self._complete(job)

    def _try_again(self, unit: Unit, failure: TryAgain) -> None:
        """Wait, then let somebody try; an address of the storage may have been the reason, so it is asked for anew."""
        failures, wish = unit.job.failures[unit.piece], failure.wish_s
        if failures >= retry.MOST_FAILURES or (wish or 0) > retry.LONGEST_WISH_S:
            asked = f", and asks to wait {int(wish)} s" if wish else ""
            self._board.end(unreachable(self._subject, f"{failure.reason}{asked} ({one_line(unit.job.file.path)})"))
            return
        self._stop.wait(retry.wait_s(failures) if wish is None else wish)
        unit.job.location = None
        self._board.give_back(unit)

    def _ask_again(self, unit: Unit, problem: str) -> None:
        """Fetch a unit once more, from a fresh address; the second time is the end."""
        if self._may_repeat(unit.job, unit.piece, problem):
            unit.job.location = None
            self._stop.wait(retry.wait_s(1))
            self._board.give_back(unit)

    def _may_repeat(self, job: Job, place: int, problem: str) -> bool:
        """Allow one repetition of what is not as it should be."""
        job.mismatches[place] = job.mismatches.get(place, 0) + 1
        if job.mismatches[place] > 1:
            page = f"{self._subject.endpoint}/{self._subject.name}"
            self._board.end(DownloadFailed(problem, hint=f"try again later, or look at {page}"))
            return False
        return True

    # ---- threads that hash

    def _complete(self, job: Job) -> None:
        """Let the file's hasher look at what has arrived."""
        if not self._stop.is_set():
            self._hasher[job].put(job)

    def _hash_jobs(self, queue: SimpleQueue[Job | None]) -> None:
        buffer = memoryview(bytearray(BUFFER_BYTES))
        with self._ending_all():
            while True:
                job = queue.get()
                if job is None or self._stop.is_set():
                    return
                self._hash(job, buffer)

    def _hash(self, job: Job, buffer: memoryview) -> None:
        """Hash as far as there is no gap; at the end of the file decide what becomes of it."""
        part = job.opened()
        if job.is_done:
            return
        frontier = part.frontier
        while job.hashed < frontier and not self._stop.is_set():
            count = part.read(job.hashed, buffer[: min(len(buffer), frontier - job.hashed)])
            if not count:
                raise OSError(errno.EIO, "the file became shorter while it was written")
            job.hasher.update(buffer[:count])
            job.hashed += count
        if job.hashed < job.file.size_bytes or self._stop.is_set():
            return
        if job.hasher.hexdigest() == job.file.digest:
            part.finish(job.blob)
            job.is_done = True
            self._board.finished(job)
            self._news.put(None)
        elif self._may_repeat(
            job, _HASH, f"{one_line(job.file.path)} arrived twice with another hash; it was thrown away"
        ):
            self._board.again(job)
        else:
            part.discard()
            job.is_done = True

    def _of_disk(self, error: OSError) -> MlxkError:
        if error.errno in _DISK_FULL:
            return InsufficientSpace(
                "the volume of the cache is full; what arrived is kept",
                hint=f"free some space, then go on: mlxk2 pull {self._subject.name}",
            )
        if error.errno == errno.ENOENT:
            return PullFailed(
                f"{self._subject.name} was removed from the cache while it was being fetched",
                hint=f"to fetch it anew: mlxk2 pull {self._subject.name}",
            )
        return PullFailed(
            f"the cache cannot be written: {error.strerror or type(error).__name__}",
            hint=f"what arrived is kept; to go on: mlxk2 pull {self._subject.name}",
        )


def _present(unit: Unit) -> int:
    """How many bytes of a unit are there."""
    part = unit.job.part
    if part is None:
        return 0
    return part.bytes_present if unit.piece == WHOLE else part.present[unit.piece]
