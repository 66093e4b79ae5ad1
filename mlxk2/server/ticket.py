"""A request on its way through the host: what it asks, whom it asks, and the events that came for it."""

from __future__ import annotations

import asyncio
import copy
from typing import Union

from mlxk2.errors import MlxkError
from mlxk2.server.problems import error_of
from mlxk2.server.protocol import Command, Counted, Embedded, EngineSpec, Failed, Over, RequestEvent

LAST = (Over, Failed, Embedded, Counted)


class Ticket:
    """One request. `spec` is the model whose turn it waits for, None for a turn without any; without `command` that is all."""

    def __init__(self, id: str, spec: EngineSpec | None, command: Command | None = None) -> None:
        self.id, self.spec, self.command = id, spec, command
        self._box: asyncio.Queue[Union[RequestEvent, MlxkError, None]] = asyncio.Queue()
        self._is_over = False
        self._loop = asyncio.get_running_loop()
        self._turn: asyncio.TimerHandle | None = None
        self._end: asyncio.TimerHandle | None = None

    def limit(self, turn_s: float | None, too_late: MlxkError, end_s: float | None, too_long: MlxkError) -> None:
        """Fail with `too_late` unless the turn comes in `turn_s`, with `too_long` unless all is over in `end_s` seconds."""
        if turn_s is not None:
            self._turn = self._loop.call_later(turn_s, self.fail, too_late)
        if end_s is not None:
            self._end = self._loop.call_later(end_s, self.fail, too_long)

    def put(self, event: RequestEvent) -> None:
        """Hand an event to whoever waits for it."""
        if self._turn is not None:
            self._turn.cancel()
        self._box.put_nowait(event)

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
        if isinstance(item, MlxkError):
            raise item
        if isinstance(item, Failed):
            raise error_of(item.problem)
        self._is_over = item is None or isinstance(item, LAST)
        return item

    def close(self) -> None:
        """Forget the time limits."""
        for timer in (self._turn, self._end):
            if timer is not None:
                timer.cancel()
