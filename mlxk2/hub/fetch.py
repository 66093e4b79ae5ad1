"""One request for a part of a file: its answer judged, its bytes put in place. Raises what is to be done about a failure."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import urllib3

from mlxk2.errors import AccessDenied, DownloadFailed, MlxkError
from mlxk2.hub import retry
from mlxk2.hub.board import WHOLE, Job, Unit
from mlxk2.hub.digest import hasher_of
from mlxk2.hub.partial import SMALL_BYTES, PartialFile
from mlxk2.hub.remote import RemoteFile
from mlxk2.hub.translate import Subject, denied, reason_of
from mlxk2.hub.transport import Answer, BadRedirect, Transport
from mlxk2.text import one_line

CHUNK_BYTES = 64 * 1024
_CONTENT_RANGE = re.compile(r"bytes (\d{1,16})-(\d{1,16})/(\d{1,16}|\*)", re.ASCII)
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
        is_whole = unit.piece == WHOLE
        start, end = (0, job.file.size_bytes) if is_whole else job.opened().missing(unit.piece)
        known = job.location
        answer = self._ask(known or job.url, job, (None, None) if is_whole else (start, end))
        try:
            if answer.status in _GONE:
                raise self._gone(answer, job, is_fresh=known is None)
            self._judge(answer, job, start, end)
            if not answer.from_hub:
                job.location = answer.url
            if job.is_small:
                self._keep_small(answer, job)
            elif is_whole:
                self._fill_gaps(answer, job.opened())
            else:
                self._fill(answer, job.opened(), unit.piece)
            self._finish(answer)
        except (urllib3.exceptions.HTTPError, ConnectionError, TimeoutError) as error:
            raise TryAgain(reason_of(error)) from error
        finally:
            self._transport.done(answer)

    def _finish(self, answer: Answer) -> None:
        """Use the connection again, if the end of the answer was seen on it; the content is there in any case."""
        with suppress(urllib3.exceptions.HTTPError, OSError):
            if not self._transport.read(answer, 1):
                self._transport.finished(answer)

    def _ask(self, url: str, job: Job, span: tuple[int | None, int | None]) -> Answer:
        try:
            return self._transport.get(url, *span)
        except BadRedirect as refused:
            raise _unusable_answer(job.file.path, refused) from refused
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise TryAgain(reason_of(error)) from error

    def _judge(self, answer: Answer, job: Job, start: int, end: int) -> None:
        """Decide by status and lengths whether this body is the part that was asked for."""
        status = answer.status
        if status in retry.TRANSIENT:
            raise TryAgain(f"HTTP {status}", retry.wish_s(answer.headers))
        if status == 416:
            raise WrongContent("fewer bytes than it should have")
        if status not in (200, 206) or answer.headers.get("Content-Encoding", "identity") != "identity":
            raise DownloadFailed(
                f"{one_line(job.file.path)} cannot be fetched: HTTP {status}",
                hint="HF_ENDPOINT tells which Hub",
                retryable=False,
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
        data = self._transport.read(answer, SMALL_BYTES + 1)
        self._received(len(data))
        hasher = hasher_of(job.file)
        hasher.update(data)
        if len(data) < job.file.size_bytes:
            raise TryAgain("the connection ended early")
        if len(data) > job.file.size_bytes or hasher.hexdigest() != job.file.digest:
            raise WrongContent("another hash")
        _write_small(job.partial_path, job.blob, data)

    def _fill(self, answer: Answer, part: PartialFile, piece: int) -> None:
        start, end = part.missing(piece)
        while start < end:
            data = self._read(answer, min(CHUNK_BYTES, end - start))
            part.write(piece, data)
            start += len(data)

    def _fill_gaps(self, answer: Answer, part: PartialFile) -> None:
        """Go through a whole body and keep what is not there yet."""
        for piece in range(part.pieces):
            start, end = part.span(piece)
            while start < end:
                data = self._read(answer, min(CHUNK_BYTES, end - start))
                known = max(part.missing(piece)[0] - start, 0)
                if known < len(data):
                    part.write(piece, memoryview(data)[known:])
                start += len(data)

    def _read(self, answer: Answer, wanted: int) -> bytes:
        data = self._transport.read(answer, wanted)
        if not data:
            raise TryAgain("the connection ended early")
        self._received(len(data))
        return data


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


def _write_small(partial: Path, blob: Path, data: bytes) -> None:
    with suppress(FileNotFoundError):
        os.unlink(partial)
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    with open(handle, "wb") as file:
        file.write(data)
    os.replace(partial, blob)


def _unusable_answer(path: str, problem: BadRedirect) -> DownloadFailed:
    return DownloadFailed(
        f"the Hub answers for {one_line(path)} with {problem}", hint="HF_ENDPOINT tells which Hub", retryable=False
    )


def read_range(transport: Transport, url: str, file: RemoteFile, start: int, length: int) -> bytes:
    """Read a few bytes of a file, and no more, whatever the server sends; fewer only where the file ends before.

    Raises: TryAgain, DownloadFailed.
    """
    end = min(start + length, file.size_bytes)
    if end <= start:
        return b""
    try:
        answer = transport.get(url, start, end)
    except BadRedirect as refused:
        raise _unusable_answer(file.path, refused) from refused
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise TryAgain(reason_of(error)) from error
    try:
        if answer.status in retry.TRANSIENT:
            raise TryAgain(f"HTTP {answer.status}", retry.wish_s(answer.headers))
        if answer.status == 206:
            _check_range(answer, start, end, file.size_bytes)
            return _all(transport, answer, end - start)
        if answer.status == 200 and start < SMALL_BYTES:
            return _all(transport, answer, end)[start:]
        raise DownloadFailed(
            f"{one_line(file.path)} cannot be read: HTTP {answer.status}",
            hint="HF_ENDPOINT tells which Hub",
            retryable=False,
        )
    except (WrongContent, urllib3.exceptions.HTTPError) as error:
        raise TryAgain(str(error) if isinstance(error, WrongContent) else reason_of(error)) from error
    finally:
        transport.done(answer)


def _all(transport: Transport, answer: Answer, length: int) -> bytes:
    parts = []
    while length > 0:
        data = transport.read(answer, min(length, CHUNK_BYTES))
        if not data:
            raise TryAgain("the connection ended early")
        parts.append(data)
        length -= len(data)
    return b"".join(parts)
