"""Files against the hashes that they must have: sha256, or git's sha1 for small blobs of the cache.

The cache has the hashes in the names of its blobs; a workspace has none but those of its sentinel, which others read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, NamedTuple

from mlxk2.events import Progress
from mlxk2.inspection.files import FileEntry, ModelFiles
from mlxk2.inspection.integrity import Finding, listed

if TYPE_CHECKING:
    import threading
    from concurrent.futures import Future
    from queue import SimpleQueue

_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_BUFFER_BYTES = 1 << 20
_REPORT_BYTES = 16 << 20
_MOST_THREADS = 8
_MOST_FINDINGS = 1000

OK = "ok"
MISMATCH = "mismatch"
UNREADABLE = "unreadable"


class Blob(NamedTuple):
    """A file and the hash that its content must have."""

    entry: FileEntry
    digest: str


class _Work(NamedTuple):
    """What the threads share: a buffer for each, the bytes that they have read, and whether to give up."""

    buffers: SimpleQueue[memoryview]
    news: SimpleQueue[int | Future[bool]]
    stop: threading.Event


def blobs_to_check(files: ModelFiles) -> tuple[Blob, ...]:
    """List the blobs that a snapshot links to, each once, the largest first."""
    found: dict[tuple[int, int], Blob] = {}
    for entry in files.entries:
        if entry.size_bytes is not None:
            target = _link_target(entry.path)
            name = os.path.basename(target)
            if _HASH.fullmatch(name) and os.path.basename(os.path.dirname(target)) == "blobs":
                found.setdefault(entry.identity, Blob(entry, name))
    return tuple(sorted(found.values(), key=lambda blob: blob.entry.size_bytes or 0, reverse=True))


def check_content(files: ModelFiles, threads: int | None = None) -> Generator[Progress, None, tuple[Finding, ...]]:
    """Hash every blob of a snapshot, and return what does not fit. Units of Progress: bytes."""
    return content_findings((yield from hash_blobs(blobs_to_check(files), threads)))


def hash_blobs(blobs: tuple[Blob, ...], threads: int | None = None) -> Generator[Progress, None, dict[Blob, str]]:
    """Hash files, several at a time, and say of each whether it is OK, a MISMATCH or UNREADABLE. Units of Progress: bytes."""
    from concurrent.futures import ThreadPoolExecutor
    from queue import SimpleQueue
    from threading import Event

    if not blobs:
        return {}
    count = min(threads or min(os.cpu_count() or 1, _MOST_THREADS), len(blobs))
    work = _Work(SimpleQueue(), SimpleQueue(), Event())
    for _ in range(count):
        work.buffers.put(memoryview(bytearray(_BUFFER_BYTES)))
    with ThreadPoolExecutor(count) as pool:
        try:
            checks = {pool.submit(_is_intact, blob, work): blob for blob in blobs}
            for check in checks:
                check.add_done_callback(work.news.put)
            return (yield from _collect(checks, work))
        finally:
            # Those that have not begun yet end at once.
            work.stop.set()


def _collect(checks: dict[Future[bool], Blob], work: _Work) -> Generator[Progress, None, dict[Blob, str]]:
    """Report progress until every blob is checked; what a thread raised, but for OSError, is raised here."""
    total, done = sum(blob.entry.size_bytes or 0 for blob in checks.values()), 0
    outcomes: dict[Blob, str] = {}
    yield Progress(0, total, "bytes")
    while len(outcomes) < len(checks):
        news = work.news.get()
        if isinstance(news, int):
            done += news
            yield Progress(min(done, total), total, "bytes")
        else:
            outcomes[checks[news]] = _outcome(news)
    yield Progress(total, total, "bytes")
    return outcomes


def _outcome(check: Future[bool]) -> str:
    try:
        return OK if check.result() else MISMATCH
    except OSError:
        return UNREADABLE


def _is_intact(blob: Blob, work: _Work) -> bool:
    """Hash a blob in one of the buffers."""
    buffer = work.buffers.get()
    try:
        return _digest(blob, buffer, work) == blob.digest
    finally:
        work.buffers.put(buffer)


def _digest(blob: Blob, buffer: memoryview, work: _Work) -> str:
    hasher = _hasher(blob)
    unreported = 0
    handle = os.open(blob.entry.path, os.O_RDONLY | os.O_NONBLOCK)
    with open(handle, "rb", buffering=0) as file:
        while not work.stop.is_set():
            count = file.readinto(buffer)
            if not count:
                break
            hasher.update(buffer[:count])
            unreported += count
            if unreported >= _REPORT_BYTES:
                work.news.put(unreported)
                unreported = 0
    work.news.put(unreported)
    return str(hasher.hexdigest())


def _hasher(blob: Blob) -> Any:
    import hashlib

    if len(blob.digest) == 64:
        return hashlib.sha256()
    # Git hashes a small header before the content.
    return hashlib.sha1(b"blob %d\0" % (blob.entry.size_bytes or 0), usedforsecurity=False)


def content_findings(outcomes: dict[Blob, str]) -> tuple[Finding, ...]:
    """Say in the contract's words which files are not what their hashes say."""
    wrong = sorted(blob.entry.name for blob, outcome in outcomes.items() if outcome == MISMATCH)
    unreadable = sorted(blob.entry.name for blob, outcome in outcomes.items() if outcome == UNREADABLE)
    mismatch, unread = f"Content hash mismatch: {listed(wrong)}", f"Unreadable files: {listed(unreadable)}"
    found = [Finding("content_hash_mismatch", mismatch, name) for name in wrong]
    found += [Finding("unreadable_file", unread, name) for name in unreadable]
    return tuple(found[:_MOST_FINDINGS])


def _link_target(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
