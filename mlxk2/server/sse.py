"""Server-sent events: frames as they come, comments while nothing comes, and an end in every case."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack
from typing import Any, Callable, NamedTuple

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mlxk2.errors import InternalError, MlxkError
from mlxk2.server.answers import to_json
from mlxk2.server.errors import ClientGone, code_of
from mlxk2.server.exchange import Exchange, Numbered, close, end

LOGGER = logging.getLogger("mlxk2.server")

COMMENT = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"

_LAST_WORDS_S = 1.0
# What the log says of a client that did not read its answer until the time was over.
NOT_READ = "client_not_reading"
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
    Raises: MlxkError, before anything was sent; ClientGone where nobody waits any more.
    """
    first = asyncio.ensure_future(events.__anext__())
    waiting = min(exchange.settings.keepalive_s, exchange.seconds_left)
    async with AsyncExitStack() as undo:
        undo.push_async_callback(close, events)
        undo.push_async_callback(end, first)
        await asyncio.wait({first, exchange.gone}, timeout=waiting, return_when=asyncio.FIRST_COMPLETED)
        if first.done():
            first.result()
        if exchange.gone.done():
            raise ClientGone("the client went away")
        undo.pop_all()
    return EventStream(exchange, Source(first, events), write, fail, idle)


class Source(NamedTuple):
    """Events, the first of which is waited for already."""

    first: asyncio.Future[Numbered]
    events: AsyncIterator[Numbered]

    async def all(self) -> AsyncIterator[Numbered]:
        """Yield all events."""
        yield await self.first
        async for event in self.events:
            yield event

    async def close(self) -> None:
        """Give up what has not come."""
        await end(self.first)
        await close(self.events)


class EventStream(Response):
    """An answer of events. An error after the start is an event too, made by `fail`. It closes its source."""

    media_type = "text/event-stream"

    def __init__(self, exchange: Exchange, source: Source, write: Writer, fail: Failure, idle: bytes) -> None:
        super().__init__(headers=_HEADERS)
        del self.headers["content-length"]
        self._exchange, self._source, self._fail, self._idle = exchange, source, fail, idle
        self._frames = write(source.all())
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
            if not await self._finish(sender, send):
                self._exchange.record.error = NOT_READ
                await self._cut(receive)
        finally:
            if sender is not None:
                await end(sender)
            # What has not begun to run does not close what it was given.
            await close(self._frames)
            await self._source.close()
            self._exchange.close()

    async def _finish(self, sender: asyncio.Future[None], send: Send) -> bool:
        """Say the last words; False where nobody reads them."""
        problem: BaseException | None = self._exchange.timed_out()
        if sender.done():
            problem = sender.exception()
        await end(sender)
        last = b"" if problem is None else b"".join(self._told(problem))
        try:
            await asyncio.wait_for(
                send({"type": "http.response.body", "body": last, "more_body": False}), _LAST_WORDS_S
            )
        except asyncio.TimeoutError:
            return False
        return True

    async def _cut(self, receive: Receive) -> None:
        """End the connection: to close it politely would be to wait until all is read."""
        transport = getattr(getattr(receive, "__self__", None), "transport", None)
        if transport is not None:
            transport.abort()
            await asyncio.wait({self._exchange.gone}, timeout=_LAST_WORDS_S)

    async def _keep_alive(self, sender: asyncio.Future[None], send: Send) -> None:
        gone, patience = self._exchange.gone, self._exchange.settings.keepalive_s
        sent = -1
        while not sender.done() and not gone.done() and self._exchange.seconds_left > 0:
            if sent == self._sent and not self._is_sending:
                await self._send_idle(send)
            sent = self._sent
            timeout = min(patience, self._exchange.seconds_left)
            await asyncio.wait({sender, gone}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)

    async def _send_idle(self, send: Send) -> None:
        """Break the silence; who reads nothing must not hold up the end."""
        sending = asyncio.ensure_future(self._send(send, self._idle))
        try:
            await asyncio.wait(
                {sending, self._exchange.gone},
                timeout=self._exchange.seconds_left,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            await end(sending)

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
