"""How many connections there may be, and how long each may take to ask. Works on uvicorn's protocol for h11."""

from __future__ import annotations

import asyncio
import logging
import resource
import sys
import time
from collections.abc import Collection
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Callable

import h11

from mlxk2.errors import MlxkError, QueueFull
from mlxk2.server.access_log import new_request_id
from mlxk2.server.answers import error_response
from mlxk2.server.errors import BadRequest

LOG = logging.getLogger("mlxk2.server")

# What this process opens besides connections.
_OTHER_FILES = 64
# Of what the parser says, which may hold what was sent.
_LONGEST_REASON = 200


class Connections:
    """Watches over the connections in `open`, of which there may be `most`.

    One that asks nothing, or not to the end of a request's head, has `head_timeout_s` for it. So has one that takes nothing
    of what it was answered. `on_refused` hears of each that was too many.
    """

    def __init__(self, open: Collection[Any], most: int, head_timeout_s: float, on_refused: Callable[[], None]) -> None:
        self._open, self._most, self._head_timeout_s, self._on_refused = open, most, head_timeout_s, on_refused
        # Those that ask nothing, and since when; the oldest first.
        self._waiting: dict[Any, tuple[object, float]] = {}
        self._refused = 0

    def admit(self) -> bool:
        """Return whether one more may come; where there are too many, the one that has asked nothing for longest goes."""
        if len(self._open) < self._most:
            return True
        while self._waiting:
            oldest = next(iter(self._waiting))
            mark, _ = self._waiting.pop(oldest)
            if oldest in self._open and _mark(oldest) == mark:
                oldest.transport.abort()
                return True
        self._refused += 1
        self._on_refused()
        return False

    def look(self) -> None:
        """End those that have had their time. To be called about once a second."""
        now = time.monotonic()
        for connection in [gone for gone in self._waiting if gone not in self._open]:
            del self._waiting[connection]
        for connection in list(self._open):
            mark, known = _mark(connection), self._waiting.get(connection)
            if known is None or known[0] != mark:
                self._waiting.pop(connection, None)
                if mark is not None:
                    self._waiting[connection] = (mark, now)
            elif now - known[1] > self._head_timeout_s:
                connection.transport.abort()
        if self._refused:
            LOG.warning("%d connections were refused: there were %d already", self._refused, self._most)
            self._refused = 0


def bounded(protocol: Any, connections: Connections) -> Any:
    """Return uvicorn's `protocol`, answering in our words those who are too many, and those whose HTTP is wrong."""

    class Bounded(protocol):  # type: ignore[misc]
        def connection_made(self, transport: asyncio.Transport) -> None:
            if connections.admit():
                super().connection_made(transport)
                return
            transport.set_protocol(asyncio.Protocol())
            transport.write(_refusal())
            transport.close()

        def send_400_response(self, msg: str) -> None:
            # What has begun to answer, or has answered, says nothing in between.
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                why = str(sys.exc_info()[1] or msg)[:_LONGEST_REASON]
                self.transport.write(_answer(BadRequest(f"the request is not valid HTTP: {why}")))
            self.transport.close()

    return Bounded


def room_for(wanted: int) -> int:
    """Return how many of so many connections are possible; the limit of open files is raised for them where it may be."""
    kind, needed = resource.RLIMIT_NOFILE, wanted + _OTHER_FILES
    soft, hard = resource.getrlimit(kind)
    if 0 <= soft < needed:
        with suppress(OSError, ValueError):
            resource.setrlimit(kind, (needed if hard < 0 else min(needed, hard), hard))
        soft, _ = resource.getrlimit(kind)
    # Without a limit it is a number below 0, or beyond all bounds.
    return wanted if soft < 0 else max(min(wanted, soft - _OTHER_FILES), 1)


def _mark(connection: Any) -> object | None:
    """Return what stays the same while a connection asks nothing and takes nothing; None while it is being answered."""
    cycle = connection.cycle
    if cycle is not None and not cycle.response_complete:
        return None
    return (cycle, connection.transport.get_write_buffer_size())


def _refusal() -> bytes:
    return _answer(QueueFull("the server has as many connections as it takes", hint="try again later", retry_after_s=1))


def _answer(error: MlxkError) -> bytes:
    """Return an answer that is the last of its connection, as it goes over the line."""
    answer = error_response("/", error)
    answer.headers["connection"] = "close"
    answer.headers["x-request-id"] = new_request_id()
    status = f"HTTP/1.1 {answer.status_code} {HTTPStatus(answer.status_code).phrase}".encode("ascii")
    head = b"\r\n".join([status, *(name + b": " + value for name, value in answer.raw_headers)])
    return head + b"\r\n\r\n" + bytes(answer.body)
