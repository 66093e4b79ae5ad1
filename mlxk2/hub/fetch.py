"""One request for a part of a file: its answer judged, its bytes put in place. Raises what is to be done about a failure."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import urllib3

from mlxk2.errors import AccessDenied, DownloadFailed, MlxkError
from mlxk2.hub import retry
from mlxk2.hub.board import WHOLE, Job, Unit
from mlxk2.hub.digest import hasher_of
from mlxk2.hub.partial import SMALL_BYTES, PartialFile
from mlxk2.hub.translate import Subject, denied, reason_of
from mlxk2.hub.transport import Answer, BadRedirect, Transport
from mlxk2.text import one_line

CHUNK_BYTES = 128 * 1024
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_GONE = (401, 403, 404, 410)


class TryAgain(Exception):
    """The request failed in a way that may pass. `wish_s`: how long the server asks to wait."""

    def __init__(self, reason: str, wish_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wish_s = wish_s


class WrongContent(Exception):
    """What the server sends is not the file that the Hub describes."""


class AddressExpired(Exception):
    """The storage's address was good once; the Hub gives a fresh one."""


class NoRanges(Exception):
    """The server answers a request for a part with the whole file."""


Received = Callable[[int], None]


class Fetcher:
    """Fetches units over one transport; `received(count)` hears of every piece of content that was put in place."""

    def __init__(self, transport: Transport, subject: Subject, received: Received) -> None:
        self._transport = transport
        self._subject = subject
        self._received = received

    def fetch(self, unit: Unit) -> None:
        """Fetch one unit. Raises: TryAgain, AddressExpired, WrongContent, NoRanges, MlxkError (the end), OSError of the disk."""
        job = unit.job
        start, end = (0, job.file.size_bytes) if unit.piece == WHOLE else job.opened().missing(unit.piece)
        is_fresh = job.location is None
        answer = self._ask(job, start, end, is_whole=unit.piece == WHOLE)
        try:
            if answer.status in _GONE:
                raise self._gone(answer, job, is_fresh=is_fresh)
            self._judge(answer, job, start, end)
            if job.is_small:
                self._keep_small(answer, job)
            elif unit.piece == WHOLE:
                self._fill_gaps(answer, job.opened())
            else:
                self._fill(answer, job.opened(), unit.piece)
            # A connection is used again only after the end of an answer was seen on it.
            if not answer.response.read(1):
                self._transport.finished(answer)
        except (urllib3.exceptions.HTTPError, ConnectionError, TimeoutError) as error:
            raise TryAgain(reason_of(error)) from error
        finally:
            self._transport.done(answer)

    def _ask(self, job: Job, start: int, end: int, *, is_whole: bool) -> Answer:
        url = job.location or job.url
        try:
            answer = self._transport.get(url) if is_whole else self._transport.get(url, start, end)
        except BadRedirect as refused:
            raise DownloadFailed(
                f"the Hub answers for {one_line(job.file.path)} with {refused}",
                hint="HF_ENDPOINT tells which Hub",
                retryable=False,
            ) from refused
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise TryAgain(reason_of(error)) from error
        if not answer.from_hub:
            job.location = answer.url
        return answer

    def _judge(self, answer: Answer, job: Job, start: int, end: int) -> None:
        """Decide by status and lengths whether this body is the part that was asked for."""
        status = answer.status
        if status in retry.TRANSIENT:
            raise TryAgain(f"HTTP {status}", retry.wish_s(answer.headers))
        if status == 416:
            raise WrongContent("fewer bytes than it should have")
        if status not in (200, 206) or answer.headers.get("Content-Encoding"):
            raise DownloadFailed(
                f"{job.file.path} cannot be fetched: HTTP {status}", hint="HF_ENDPOINT tells which Hub"
            )
        if status == 206:
            _check_range(answer, start, end, job.file.size_bytes)
            return
        length = answer.headers.get("Content-Length")
        if length is not None and length != str(job.file.size_bytes):
            raise WrongContent(f"{one_line(length[:20])} bytes")
        if (start, end) != (0, job.file.size_bytes):
            raise NoRanges

    def _gone(self, answer: Answer, job: Job, *, is_fresh: bool) -> Exception:
        if answer.from_hub:
            return refusal(answer, job.file.path, self._subject)
        if not is_fresh:
            # A signed address that has expired; the Hub gives a fresh one.
            return AddressExpired()
        return DownloadFailed(
            f"the storage that the Hub points to refuses {one_line(job.file.path)}: HTTP {answer.status}",
            hint=f"try again later: mlxk2 pull {self._subject.name}",
        )

    def _keep_small(self, answer: Answer, job: Job) -> None:
        data = answer.response.read(SMALL_BYTES + 1)
        hasher = hasher_of(job.file)
        hasher.update(data)
        if len(data) < job.file.size_bytes:
            raise TryAgain("the connection ended early")
        if len(data) > job.file.size_bytes or hasher.hexdigest() != job.file.digest:
            raise WrongContent("another hash")
        _write_small(job.partial_path, job.blob, data)
        self._received(len(data))

    def _fill(self, answer: Answer, part: PartialFile, piece: int) -> None:
        start, end = part.missing(piece)
        while start < end:
            data = _read(answer, min(CHUNK_BYTES, end - start))
            part.write(piece, data)
            self._received(len(data))
            start += len(data)

    def _fill_gaps(self, answer: Answer, part: PartialFile) -> None:
        """Go through a whole body and keep what is not there yet."""
        for piece in range(part.pieces):
            start, end = part.span(piece)
            while start < end:
                data = _read(answer, min(CHUNK_BYTES, end - start))
                known = max(part.missing(piece)[0] - start, 0)
                if known < len(data):
                    part.write(piece, memoryview(data)[known:])
                    self._received(len(data) - known)
                start += len(data)


def refusal(answer: Answer, path: str, subject: Subject) -> MlxkError:
    """Return the error for an answer of the Hub that says no."""
    code = answer.headers.get("X-Error-Code") or ""
    if answer.status in (401, 403):
        words = answer.headers.get("X-Error-Message") or ""
        error: AccessDenied = denied(subject, gated=code == "GatedRepo", words=words)
        return error
    return DownloadFailed(
        f"the Hub lists {one_line(path)}, but does not have it", hint="HF_ENDPOINT tells which Hub", retryable=False
    )


def _check_range(answer: Answer, start: int, end: int, size_bytes: int) -> None:
    said = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range") or "")
    if said is None:
        raise WrongContent("a part that does not say which")
    if said[3] not in ("*", str(size_bytes)):
        raise WrongContent(f"{said[3][:20]} bytes")
    if (int(said[1]), int(said[2]) + 1) != (start, end):
        raise WrongContent("another part than was asked for")


def _read(answer: Answer, wanted: int) -> bytes:
    data: bytes = answer.response.read(wanted)
    if not data:
        raise TryAgain("the connection ended early")
    return data


def _write_small(partial: Path, blob: Path, data: bytes) -> None:
    with open(partial, "wb") as file:
        file.write(data)
    os.replace(partial, blob)


def read_range(transport: Transport, url: str, start: int, length: int) -> bytes:
    """Read a few bytes of a file, and no more, whatever the server sends. Raises: urllib3's errors, BadRedirect."""
    answer = transport.get(url, start, start + length)
    try:
        if answer.status == 206:
            return _all(answer.response, length)
        if answer.status == 200 and start < SMALL_BYTES:
            return _all(answer.response, start + length)[start:]
        return b""
    finally:
        transport.done(answer)


def _all(response: Any, length: int) -> bytes:
    parts = []
    while length > 0:
        data = response.read(min(length, CHUNK_BYTES))
        if not data:
            break
        parts.append(data)
        length -= len(data)
    return b"".join(parts)
