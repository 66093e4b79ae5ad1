"""Describe many models, on several cores where there are enough of them to pay for it.

Forked workers take a share each and hand it back through a pipe. A worker that fails costs time, never an answer.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from mlxk2.inspection.describe import ModelInfo, describe
from mlxk2.store.model_ref import ModelRef

MODELS_A_WORKER = 100
_MOST_WORKERS = 8
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Worker(NamedTuple):
    pid: int
    results: int


def describe_many(refs: Sequence[ModelRef]) -> tuple[ModelInfo, ...]:
    """Describe each model, in the order of `refs`."""
    shares = min(os.cpu_count() or 1, len(refs) // MODELS_A_WORKER, _MOST_WORKERS)
    if shares < 2 or not _may_fork():
        return tuple(describe(ref) for ref in refs)
    found: list[ModelInfo | None] = [None] * len(refs)
    with _workers([refs[number::shares] for number in range(1, shares)]) as workers:
        found[0::shares] = [describe(ref) for ref in refs[0::shares]]
        for number in range(1, shares):
            own = refs[number::shares]
            received = _received(workers[number - 1].results, len(own)) if number <= len(workers) else None
            found[number::shares] = received or [describe(ref) for ref in own]
    return tuple(info for info in found if info is not None)


def _may_fork() -> bool:
    """A process with threads must not fork: a lock that another thread holds would stay locked in the child."""
    threading = sys.modules.get("threading")
    return hasattr(os, "fork") and (threading is None or threading.active_count() == 1)


@contextmanager
def _workers(shares: list[Sequence[ModelRef]]) -> Iterator[list[_Worker]]:
    """Fork a worker a share, fewer where the system refuses; whatever happens, none is left behind."""
    workers: list[_Worker] = []
    try:
        for share in shares:
            worker = _started(share)
            if worker is None:
                break
            workers.append(worker)
        yield workers
    finally:
        for worker in workers:
            os.close(worker.results)
            os.kill(worker.pid, signal.SIGKILL)
            os.waitpid(worker.pid, 0)


def _started(share: Sequence[ModelRef]) -> _Worker | None:
    """Fork one worker; None where the system has no process or descriptor left for it."""
    try:
        reading, writing = os.pipe()
    except OSError:
        return None
    # The child keeps them blocked: a Ctrl-C is the parent's to answer, and the parent ends its children.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        pid = os.fork()
        if pid == 0:
            _work(share, writing)
        return _Worker(pid, reading)
    except OSError:
        os.close(reading)
        return None
    finally:
        os.close(writing)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _work(share: Sequence[ModelRef], writing: int) -> None:
    """Be the child: describe, send, vanish without running what the parent has to run at its end."""
    try:
        with os.fdopen(writing, "wb") as pipe:
            pickle.dump([describe(ref) for ref in share], pipe)
    finally:
        os._exit(0)  # noqa: TID251 - a forked child must not unwind into the parent's stack


def _received(reading: int, count: int) -> list[ModelInfo] | None:
    """Read what a worker sent; None where it did not send its whole share."""
    with os.fdopen(os.dup(reading), "rb") as pipe:
        try:
            found = pickle.load(pipe)
        except (EOFError, pickle.UnpicklingError):
            return None
    return found if isinstance(found, list) and len(found) == count else None
