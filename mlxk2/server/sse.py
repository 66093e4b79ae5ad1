"""Server-sent events: frames as they come, comments while nothing comes, and an end in every case."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, Callable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mlxk2.errors import InternalError, MlxkError
from mlxk2.server.answers import to_json
from mlxk2.server.errors import code_of
from mlxk2.server.exchange import Exchange, Numbered, close, end

LOGGER = logging.getLogger("mlxk2.server")

COMMENT = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"

_LAST_WORDS_S = 1.0
_HEADERS = {"cache-control": "no-cache, no-transform", "x-accel-buffering": "no"}


def frame(data: Mapping[str, Any], event: str | None = None) -> bytes:
    """Return one event on the wire."""
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {to_json(data)}\n\n".encode()


Writer = Callable[[AsyncIterator[Numbered]], AsyncIterator[bytes]]
Failure = Callable[[MlxkError], Iterable[bytes]]


async def streamed(
    exchange: Exchange, events: AsyncIterator[Numbered], write: Writer, fail: Failure, idle: bytes = COMMENT
) -> EventStream:
    """Return the answer that streams what `write` makes of the events.

    The first event is waited for as long as a stream may be silent, so that a request which fails at once has the
    status that says so.
    Raises: MlxkError, before anything was sent.
    """
    first = asyncio.ensure_future(events.__anext__())
    waiting = min(exchange.settings.keepalive_s, exchange.seconds_left)
    try:
        await asyncio.wait({first, exchange.gone}, timeout=waiting, return_when=asyncio.FIRST_COMPLETED)
        if first.done():
            first.result()
    except BaseException:
        await end(first)
        await close(events)
        raise
    return EventStream(exchange, write(_resumed(first, events)), fail, idle)


async def _resumed(first: asyncio.Future[Numbered], events: AsyncIterator[Numbered]) -> AsyncIterator[Numbered]:
    try:
        yield await first
        async for event in events:
            yield event
    finally:
        await end(first)
        await close(events)


class EventStream(Response):
    """An answer of events. An error after the start is an event too, made by `fail`."""

    media_type = "text/event-stream"

    def __init__(self, exchange: Exchange, frames: AsyncIterator[bytes], fail: Failure, idle: bytes) -> None:
        super().__init__(headers=_HEADERS)
        del self.headers["content-length"]
        self._exchange, self._frames, self._fail, self._idle = exchange, frames, fail, idle
        self._is_sending = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything; end early when the client leaves or the time is over."""
        sender: asyncio.Future[None] | None = None
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            sender = asyncio.ensure_future(self._send_frames(send))
            await self._keep_alive(sender, send)
            if self._exchange.gone.done() and not sender.done():
                self._exchange.record.error = "client_gone"
                return
            await self._finish(sender, send)
        finally:
            if sender is not None:
                await end(sender)
            await close(self._frames)
            self._exchange.close()

    async def _finish(self, sender: asyncio.Future[None], send: Send) -> None:
        problem: BaseException | None = self._exchange.timed_out()
        if sender.done():
            problem = sender.exception()
        await end(sender)
        last = b"" if problem is None else b"".join(self._told(problem))
        # A client that reads nothing is not waited for.
        await asyncio.wait_for(send({"type": "http.response.body", "body": last, "more_body": False}), _LAST_WORDS_S)

    async def _keep_alive(self, sender: asyncio.Future[None], send: Send) -> None:
        gone, patience = self._exchange.gone, self._exchange.settings.keepalive_s
        sent = -1
        while not sender.done() and not gone.done() and self._exchange.seconds_left > 0:
            if sent == self._sent and not self._is_sending:
                await self._send(send, self._idle)
            sent = self._sent
            timeout = min(patience, self._exchange.seconds_left)
            await asyncio.wait({sender, gone}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)

    async def _send_frames(self, send: Send) -> None:
        async for data in self._frames:
            await self._send(send, data)

    def _told(self, problem: BaseException) -> Iterable[bytes]:
        if not isinstance(problem, MlxkError):
            LOGGER.error("a stream failed", exc_info=problem)
            problem = InternalError("the server failed; its log says how")
        self._exchange.record.error = code_of(problem)
        return self._fail(problem)

    async def _send(self, send: Send, data: bytes) -> None:
        self._is_sending = True
        self._sent += 1
        try:
            await send({"type": "http.response.body", "body": data, "more_body": True})
        finally:
            self._is_sending = False

    _sent = 0
