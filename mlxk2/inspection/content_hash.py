"""Blobs of the cache against the hashes in their names: sha256 of large files, git's sha1 of small ones.

A workspace has no such names, so there is nothing to check in it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, NamedTuple

from mlxk2.events import Progress
from mlxk2.inspection.files import FileEntry, ModelFiles
from mlxk2.inspection.integrity import Finding

if TYPE_CHECKING:
    import threading
    from queue import SimpleQueue

_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_BUFFER_BYTES = 1 << 20
_REPORT_BYTES = 16 << 20
_MOST_THREADS = 8

OK = "ok"
MISMATCH = "mismatch"
UNREADABLE = "unreadable"


class Blob(NamedTuple):
    """A file of the cache and the hash that its content must have."""

    entry: FileEntry
    path: str
    digest: str


class _Verdict(NamedTuple):
    blob: Blob
    outcome: str


def blobs_to_check(files: ModelFiles) -> tuple[Blob, ...]:
    """List the blobs that a snapshot links to, each once, the largest first."""
    found: dict[tuple[int, int], Blob] = {}
    for entry in files.entries:
        if entry.size_bytes is not None:
            target = _link_target(entry.path)
            name = os.path.basename(target)
            if _HASH.fullmatch(name) and os.path.basename(os.path.dirname(target)) == "blobs":
                found.setdefault(entry.identity, Blob(entry, entry.path, name))
    return tuple(sorted(found.values(), key=lambda blob: blob.entry.size_bytes or 0, reverse=True))


def check_content(files: ModelFiles, threads: int | None = None) -> Generator[Progress, None, tuple[Finding, ...]]:
    """Hash every blob, several at a time, and return what does not fit. Units of Progress: bytes."""
    from queue import SimpleQueue
    from threading import Event, Thread

    blobs = blobs_to_check(files)
    if not blobs:
        return ()
    results: SimpleQueue[_Verdict | int] = SimpleQueue()
    stop, waiting = Event(), list(reversed(blobs))
    count = min(threads or min(os.cpu_count() or 1, _MOST_THREADS), len(blobs))
    workers = [Thread(target=_work, args=(waiting, results, stop), daemon=True) for _ in range(count)]
    for worker in workers:
        worker.start()
    try:
        verdicts = yield from _collect(results, blobs)
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    return _findings(verdicts)


def _collect(
    results: SimpleQueue[_Verdict | int], blobs: tuple[Blob, ...]
) -> Generator[Progress, None, list[_Verdict]]:
    total, done = sum(blob.entry.size_bytes or 0 for blob in blobs), 0
    verdicts: list[_Verdict] = []
    yield Progress(0, total, "bytes")
    while len(verdicts) < len(blobs):
        result = results.get()
        if isinstance(result, int):
            done += result
            yield Progress(min(done, total), total, "bytes")
        else:
            verdicts.append(result)
    yield Progress(total, total, "bytes")
    return verdicts


def _work(waiting: list[Blob], results: SimpleQueue[_Verdict | int], stop: threading.Event) -> None:
    """Take blobs until there are none; one buffer a thread."""
    buffer = memoryview(bytearray(_BUFFER_BYTES))
    while not stop.is_set():
        try:
            blob = waiting.pop()
        except IndexError:
            return
        try:
            same = _digest(blob, buffer, results, stop) == blob.digest
            results.put(_Verdict(blob, OK if same else MISMATCH))
        except OSError:
            results.put(_Verdict(blob, UNREADABLE))


def _digest(blob: Blob, buffer: memoryview, results: SimpleQueue[_Verdict | int], stop: threading.Event) -> str:
    hasher = _hasher(blob)
    unreported = 0
    handle = os.open(blob.path, os.O_RDONLY | os.O_NONBLOCK)
    with open(handle, "rb", buffering=0) as file:
        while not stop.is_set():
            count = file.readinto(buffer)
            if not count:
                break
            hasher.update(buffer[:count])
            unreported += count
            if unreported >= _REPORT_BYTES:
                results.put(unreported)
                unreported = 0
    results.put(unreported)
    return str(hasher.hexdigest())


def _hasher(blob: Blob) -> Any:
    import hashlib

    if len(blob.digest) == 64:
        return hashlib.sha256()
    # Git hashes a small header before the content.
    return hashlib.sha1(b"blob %d\0" % (blob.entry.size_bytes or 0), usedforsecurity=False)


def _findings(verdicts: list[_Verdict]) -> tuple[Finding, ...]:
    wrong = sorted(v.blob.entry.name for v in verdicts if v.outcome == MISMATCH)
    unreadable = sorted(v.blob.entry.name for v in verdicts if v.outcome == UNREADABLE)
    found = [Finding("content_hash_mismatch", f"Content hash mismatch: {', '.join(wrong)}", name) for name in wrong]
    found += [Finding("unreadable_file", f"Unreadable files: {', '.join(unreadable)}", name) for name in unreadable]
    return tuple(found)


def _link_target(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
