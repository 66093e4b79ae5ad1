"""One request under way: its events from the host, watched for a client that goes away and for the end of its time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Callable, TypeVar, Union

from starlette.types import Receive

from mlxk2 import errors
from mlxk2.runner.answer import ChosenToken
from mlxk2.runner.request import GenerationRequest
from mlxk2.server.errors import ClientGone
from mlxk2.server.host_types import HostLike
from mlxk2.server.protocol import (
    LAST,
    Command,
    Generate,
    Over,
    Piece,
    RequestEvent,
    ToolLost,
    ToolPiece,
)
from mlxk2.server.record import RequestRecord
from mlxk2.server.settings import ServerSettings

Result = TypeVar("Result")
Numbered = tuple[int, RequestEvent]

# Events of one answer that may wait for a slow client before the others wait too.
_MOST_WAITING = 256


class Exchange:
    """A client that waits, and what is computed for it."""

    def __init__(self, host: HostLike, settings: ServerSettings, record: RequestRecord, receive: Receive) -> None:
        self.host, self.settings, self.record = host, settings, record
        self._deadline = record.started + settings.request_timeout_s
        self.gone = asyncio.ensure_future(_until_gone(receive))

    def close(self) -> None:
        """Watch no more."""
        self.gone.cancel()

    @property
    def seconds_left(self) -> float:
        """How long the answer may still take."""
        return max(0.0, self._deadline - time.perf_counter())

    def timed_out(self) -> errors.RequestTimedOut:
        """Return the error that says so."""
        return errors.RequestTimedOut(f"the answer was not complete within {self.settings.request_timeout_s:g} s")

    async def result(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Wait for `work`; end it when the client leaves or the time is over.

        Raises: ClientGone, RequestTimedOut, and what `work` raises.
        """
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task, self.gone}, timeout=self.seconds_left, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise ClientGone("the client went away") if self.gone.done() else self.timed_out()
        finally:
            await end(task)

    def generate(self, model: str | None, requests: Sequence[GenerationRequest]) -> AsyncIterator[Numbered]:
        """Yield the events of all requests as they come, each with the number of its request.

        Raises: MlxkError for the first one that fails; the others are given up.
        """
        streams = [self.events(model, _maker(request)) for request in requests]
        return _numbered(streams[0]) if len(streams) == 1 else _merged(streams)

    async def events(self, model: str | None, make: Callable[[str], Command]) -> AsyncIterator[RequestEvent]:
        """Yield the events of one command up to its last. Raises: MlxkError."""
        source = self.host.submit(model, make)
        try:
            async for event in source:
                self.record.note(event)
                yield event
                if isinstance(event, LAST):
                    return
            raise errors.EngineLost("the answer ended before it was complete")
        finally:
            await close(source)

    async def last(self, model: str | None, make: Callable[[str], Command]) -> RequestEvent:
        """Return the last event of a command. Raises: MlxkError."""
        events = self.events(model, make)
        try:
            async for event in events:
                if isinstance(event, LAST):
                    return event
        finally:
            await close(events)
        raise errors.EngineLost("the answer ended before it was complete")


@dataclass
class Collected:
    """One complete answer. `tools` are its calls: (id, name, arguments)."""

    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    logprobs: list[ChosenToken] = field(default_factory=list)
    calls: dict[int, list[str]] = field(default_factory=dict)
    over: Over | None = None

    @property
    def text(self) -> str:
        """The answer without its reasoning."""
        return "".join(self.texts)

    @property
    def reasoning(self) -> str | None:
        """The reasoning; None where there was none."""
        return "".join(self.thoughts) or None

    @property
    def ending(self) -> Over:
        """How it ended."""
        if self.over is None:
            raise errors.EngineLost("the answer ended before it was complete")
        return self.over

    @property
    def tools(self) -> tuple[tuple[str, str, str], ...]:
        """The calls, in order: id, name, arguments."""
        return tuple((call[0], call[1], "".join(call[2:])) for _, call in sorted(self.calls.items()))

    def add(self, event: RequestEvent) -> None:
        """Take an event."""
        if isinstance(event, Piece):
            is_answer = event.channel == "answer"
            (self.texts if is_answer else self.thoughts).append(event.text)
            if is_answer:
                self.logprobs.extend(event.logprobs)
        elif isinstance(event, ToolPiece):
            call = self.calls.setdefault(event.index, [event.call_id or f"call_{event.index}", event.name or ""])
            call.append(event.arguments)
        elif isinstance(event, ToolLost):
            self.calls.pop(event.index, None)
            self.texts.append(event.text)
        elif isinstance(event, Over):
            self.over = event


async def collect(events: AsyncIterator[Numbered], count: int) -> list[Collected]:
    """Return the complete answers of `count` requests. Raises: MlxkError."""
    answers = [Collected() for _ in range(count)]
    try:
        async for number, event in events:
            answers[number].add(event)
    finally:
        await close(events)
    return answers


async def _numbered(events: AsyncIterator[RequestEvent]) -> AsyncIterator[Numbered]:
    try:
        async for event in events:
            yield 0, event
    finally:
        await close(events)


async def _merged(streams: Sequence[AsyncIterator[RequestEvent]]) -> AsyncIterator[Numbered]:
    queue: asyncio.Queue[Union[Numbered, BaseException, None]] = asyncio.Queue(_MOST_WAITING)
    tasks = [asyncio.ensure_future(_pump(number, stream, queue)) for number, stream in enumerate(streams)]
    open_streams = len(tasks)
    try:
        while open_streams:
            item = await queue.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                open_streams -= 1
            else:
                yield item
    finally:
        for task in tasks:
            await end(task)


async def _pump(number: int, stream: AsyncIterator[RequestEvent], queue: asyncio.Queue[Any]) -> None:
    problem: Exception | None = None
    try:
        async for event in stream:
            await queue.put((number, event))
    except errors.MlxkError as error:
        problem = error
    finally:
        await close(stream)
    await queue.put(problem)


def _maker(request: GenerationRequest) -> Callable[[str], Command]:
    return lambda id: Generate(id, request)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def end(task: Awaitable[Any]) -> None:
    """Cancel a task and wait until it has cleaned up; what it raises is of no interest any more."""
    future = asyncio.ensure_future(task)
    if not future.done():
        future.cancel()
        await asyncio.wait({future})
    if not future.cancelled():
        future.exception()


async def close(source: AsyncIterator[Any]) -> None:
    """Close a generator; what it says about that is of no interest."""
    aclose = getattr(source, "aclose", None)
    if aclose is not None:
        with suppress(errors.MlxkError):
            await aclose()
