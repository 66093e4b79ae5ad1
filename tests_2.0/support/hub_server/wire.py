"""HTTP/1.1 over sockets: reads requests, writes answers, whole or damaged on order. Knows nothing of the Hub."""

from __future__ import annotations

import io
import os
import socket
import struct
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from typing import Callable, Union

from .transfer import ChunkedBody, ClientGone, Pace, SizedBody, unsent

SMALL = 64 * 1024
HEADERS_AT_MOST = 200


class BadRequest(Exception):
    """What came is no HTTP request."""


@dataclass(frozen=True)
class FilePart:
    """A stretch of a file on disk."""

    path: Path
    offset: int
    length: int


Piece = Union[bytes, FilePart]
# Sends up to so many bytes (second) from an offset (first); says how many went.
Send = Callable[[int, int], int]


@dataclass
class Response:
    """An answer. `body` is in pieces, so that a large file is never in memory; `declared` overrides its length."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: tuple[Piece, ...] = ()
    declared: int | None = None

    @property
    def length(self) -> int:
        return sum(_length(piece) for piece in self.body)


@dataclass
class Delivery:
    """How to send an answer: `ending` (drop, reset, hang) after `cut` bytes of body, at `rate` bytes a second."""

    cut: int | None = None
    ending: str | None = None
    rate: int | None = None


def _length(piece: Piece) -> int:
    return len(piece) if isinstance(piece, bytes) else piece.length


class Exchange:
    """One request, and the way to answer it. Header names are lower case."""

    def __init__(self, connection: Connection, method: str, target: str, headers: Mapping[str, str]) -> None:
        self.connection = connection
        self.method = method
        self.path, _, self.query = target.partition("?")
        self.headers = headers
        self.body = self._body()
        self.answered = False

    def _body(self) -> io.BufferedReader:
        stream = self.connection.stream
        if "chunked" in self.headers.get("transfer-encoding", ""):
            return io.BufferedReader(ChunkedBody(stream), SMALL)
        length = self.headers.get("content-length", "0")
        if not length.isdigit():
            raise BadRequest("Content-Length")
        return io.BufferedReader(SizedBody(stream, int(length)), SMALL)

    def send(self, response: Response, delivery: Delivery, sent: Callable[[int], None] = lambda n: None) -> None:
        """Answer. `sent` is told of body bytes just before they can be seen, and of a correction after."""
        self.answered = True
        self._drain()
        declared = response.length if response.declared is None else response.declared
        head = self._head(response, declared)
        if self.method == "HEAD":
            self.connection.write(head)
            return
        whole = min(declared, response.length)
        left = whole if delivery.cut is None else min(whole, delivery.cut)
        self.connection.write(head, more=left > 0)
        self.connection.write_pieces(response.body, left, delivery.rate, sent)
        if delivery.ending is not None:
            self.connection.end(delivery.ending)
        elif declared != whole:
            self.connection.end("drop")

    def _drain(self) -> None:
        while self.body.read(SMALL):
            pass

    def _head(self, response: Response, declared: int) -> bytes:
        headers = {"Date": formatdate(usegmt=True), **response.headers}
        if response.status not in (204, 304):
            headers.setdefault("Content-Length", str(declared))
        reason = HTTPStatus(response.status).phrase if response.status in _STATUSES else "Status"
        lines = [f"HTTP/1.1 {response.status} {reason}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


_STATUSES = frozenset(status.value for status in HTTPStatus)


class Connection:
    """A client's connection, served by one thread."""

    def __init__(self, sock: socket.socket, port: int, stopping: threading.Event) -> None:
        self.port = port
        self.stopping = stopping
        self._sock = sock
        self._open = True
        self.stream = sock.makefile("rb", SMALL)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def serve(self, handle: Callable[[Exchange], None]) -> None:
        """Answer requests until either side ends it."""
        try:
            while self._open and not self.stopping.is_set():
                try:
                    exchange = self._next()
                except (BadRequest, ValueError):
                    self._refuse()
                    break
                if exchange is None:
                    break
                handle(exchange)
                if not exchange.answered or "close" in exchange.headers.get("connection", "").lower():
                    break
        except OSError:
            pass  # the client went away, which is its right
        finally:
            self.close()

    def close(self) -> None:
        self._open = False
        self.stream.close()
        self._sock.close()

    def interrupt(self) -> None:
        """Wake the thread that serves this connection, from another one."""
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # closed already

    def write(self, data: bytes, more: bool = False) -> None:
        flags = getattr(socket, "MSG_MORE", 0) if more else 0
        view = memoryview(data)
        while view:
            view = view[self._sock.send(view, flags) :]

    def write_pieces(self, pieces: tuple[Piece, ...], left: int, rate: int | None, sent: Callable[[int], None]) -> None:
        """Send the first `left` bytes of the pieces, at `rate` bytes a second if that is not None."""
        pace = Pace(rate, self.stopping)
        for piece in pieces:
            count = min(left, _length(piece))
            left -= count
            if count == 0:
                continue
            if isinstance(piece, bytes):
                self._send_all(self._from_bytes(piece), count, pace, sent)
                continue
            with piece.path.open("rb") as file:
                self._send_all(self._from_file(file.fileno(), piece.offset), count, pace, sent)

    def _from_bytes(self, data: bytes) -> Send:
        return lambda start, count: self._sock.send(data[start : start + count])

    def _from_file(self, file: int, first: int) -> Send:
        return lambda start, count: os.sendfile(self._sock.fileno(), file, first + start, count)

    def _send_all(self, send: Send, count: int, pace: Pace, sent: Callable[[int], None]) -> None:
        done = 0
        while done < count:
            chunk = min(count - done, pace.chunk)
            pace.wait(chunk)
            # Told first: who has the last byte must find it counted.
            sent(chunk)
            gone = 0
            try:
                gone = send(done, chunk)
            finally:
                sent(gone - chunk)
            if gone == 0:
                raise ClientGone("nothing can be sent")
            done += gone
            pace.done += gone

    def end(self, ending: str) -> None:
        """End the connection: drop (cleanly), reset, or hang (until the client or the server gives up)."""
        self._open = False
        if ending == "hang":
            while self._sock.recv(SMALL):
                pass
        elif ending == "reset":
            self._let_arrive()
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            self.interrupt_writing()

    def interrupt_writing(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the client was faster

    def _let_arrive(self) -> None:
        """Wait until the other side has what was sent: a reset throws away what is still on its way."""
        deadline = time.monotonic() + 5
        while unsent(self._sock) and time.monotonic() < deadline and not self.stopping.wait(0.002):
            pass

    def _next(self) -> Exchange | None:
        line = self.stream.readline(65537)
        while line in (b"\r\n", b"\n"):
            line = self.stream.readline(65537)
        if not line:
            return None
        words = line.decode("latin-1").split()
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            raise BadRequest("request line")
        exchange = Exchange(self, words[0], words[1], self._headers())
        if exchange.headers.get("expect", "").lower() == "100-continue":
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return exchange

    def _headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        for _ in range(HEADERS_AT_MOST):
            line = self.stream.readline(65537)
            if line in (b"\r\n", b"\n", b""):
                return headers
            name, _colon, value = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        raise BadRequest("too many headers")

    def _refuse(self) -> None:
        try:
            self.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        except OSError:
            pass
