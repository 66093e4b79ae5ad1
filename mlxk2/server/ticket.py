"""A request on its way through the host: what it asks, whom it asks, and the events that came for it."""

from __future__ import annotations

import asyncio
import copy
from typing import Callable, Union

from mlxk2.errors import MlxkError, ReaderTooSlow
from mlxk2.server.problems import error_of
from mlxk2.server.protocol import (
    LAST,
    Command,
    EngineSpec,
    Failed,
    Piece,
    RequestEvent,
    ToolLost,
    ToolPiece,
)

# What may wait for a reader: a long answer whole, and not an endless one.
_MOST_EVENTS = 8192
_MOST_BYTES = 8 * 2**20
# What one token with its log probability takes, more or less.
_TOKEN_BYTES = 100


class Ticket:
    """One request. `spec` is the model whose turn it waits for; without `command` that is all.

    `spec` None: it waits until `leaving` is not loaded any more. `has_begun`: its turn came, and the engine works on it.
    """

    def __init__(
        self, id: str, spec: EngineSpec | None, command: Command | None = None, leaving: EngineSpec | None = None
    ) -> None:
        self.id, self.spec, self.command, self.leaving = id, spec, command, leaving
        self._bytes = 0
        self._box: asyncio.Queue[Union[RequestEvent, MlxkError, None]] = asyncio.Queue()
        self._is_over = False
        self.has_begun = False
        self._turn: asyncio.TimerHandle | None = None

    def limit(self, seconds: float, too_late: Callable[[], MlxkError]) -> None:
        """Fail with what `too_late` returns unless the turn comes in time."""
        self._turn = asyncio.get_running_loop().call_later(seconds, lambda: self.fail(too_late()))

    def put(self, event: RequestEvent) -> bool:
        """Hand an event to whoever waits for it; False, and the request has failed, where too much waits already."""
        self.has_begun = True
        if self._turn is not None:
            self._turn.cancel()
        is_last = isinstance(event, LAST)
        if not is_last and (self._box.qsize() >= _MOST_EVENTS or self._bytes > _MOST_BYTES):
            self._empty()
            self.fail(ReaderTooSlow("the answer was not read as fast as it came"))
            return False
        self._bytes += _size_of(event)
        self._box.put_nowait(event)
        return True

    def _empty(self) -> None:
        while not self._box.empty():
            self._box.get_nowait()

    def fail(self, error: MlxkError) -> None:
        """End with an error; the same one may end others, so each gets its own."""
        self._box.put_nowait(copy.copy(error))

    def finish(self) -> None:
        """End without any event."""
        self._box.put_nowait(None)

    async def take(self) -> RequestEvent | None:
        """Return the next event, None after the last. Raises: MlxkError."""
        if self._is_over:
            return None
        item = await self._box.get()
        self._bytes -= _size_of(item)
        if isinstance(item, MlxkError):
            raise item
        if isinstance(item, Failed):
            raise error_of(item.problem)
        self._is_over = item is None or isinstance(item, LAST)
        return item

    def close(self) -> None:
        """Forget the time limit."""
        if self._turn is not None:
            self._turn.cancel()


def _size_of(event: object) -> int:
    """Return about how much memory an event takes."""
    if isinstance(event, Piece):
        return len(event.text) + _TOKEN_BYTES * sum(1 + len(token.top) for token in event.logprobs)
    if isinstance(event, ToolPiece):
        return len(event.arguments)
    return len(event.text) if isinstance(event, ToolLost) else 0
