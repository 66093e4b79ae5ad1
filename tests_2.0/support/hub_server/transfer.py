"""Bytes on their way: bodies of requests as streams, rates, and what the other side has not got yet. Knows no messages."""

from __future__ import annotations

import array
import fcntl
import io
import socket
import termios
import threading
import time
from typing import BinaryIO

CHUNK = 1024 * 1024


class ClientGone(ConnectionError):
    """The client closed the connection, or the server is stopping."""


class SizedBody(io.RawIOBase):
    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self._left = stream, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        wanted = min(len(buffer), self._left)
        if wanted == 0:
            return 0
        # read1: what is there now, so that a slow reader is seen as one.
        data = self._stream.read1(wanted)  # type: ignore[attr-defined]
        if not data:
            raise ClientGone("body ended early")
        buffer[: len(data)] = data
        self._left -= len(data)
        return len(data)


class ChunkedBody(io.RawIOBase):
    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._left, self._ended = stream, 0, False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self._left == 0 and not self._ended:
            self._next_chunk()
        if self._ended:
            return 0
        data = self._stream.read1(min(len(buffer), self._left))  # type: ignore[attr-defined]
        if not data:
            raise ClientGone("body ended early")
        buffer[: len(data)] = data
        self._left -= len(data)
        if self._left == 0:
            self._stream.readline()
        return len(data)

    def _next_chunk(self) -> None:
        line = self._stream.readline(1024)
        if not line:
            raise ClientGone("body ended early")
        self._left = int(line.split(b";")[0], 16)
        if self._left == 0:
            self._ended = True
            while self._stream.readline(8192) not in (b"\r\n", b"\n", b""):
                pass


class Pace:
    """Keeps a transfer to a rate; None is as fast as it goes."""

    def __init__(self, rate: int | None, stopping: threading.Event) -> None:
        self._rate = rate
        self._stopping = stopping
        self._start = time.monotonic()
        self.done = 0
        self.chunk = CHUNK if rate is None else max(1, min(CHUNK, rate // 20))

    def wait(self, count: int) -> None:
        """Wait until `count` more bytes may go. Raises: ClientGone when the server stops."""
        if self._rate is None:
            return
        pause = self._start + (self.done + count) / self._rate - time.monotonic()
        if pause > 0 and self._stopping.wait(pause):
            raise ClientGone("the server stops")


def unsent(sock: socket.socket) -> int:
    if hasattr(socket, "SO_NWRITE"):  # macOS
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_NWRITE)
    count = array.array("i", [0])
    try:
        fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, count)
    except OSError:
        return 0
    return count[0]
