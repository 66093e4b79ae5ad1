"""What the HTTP side is told: at once where somebody waits for it, and where tokens come faster than anybody reads, some at a time."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterable
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Callable

from mlxk2.server.protocol import Begun, EngineEvent, Piece, ToolPiece

# Seconds between two messages of text: to a reader it flows, and each costs as much work as computing a token may. It is
# longer, but no more than so long, where many answers are told of: so much for each.
_PAUSE_S, _LONGEST_PAUSE_S, _EACH_S = 1 / 30, 1 / 20, 0.003

_TEXT = (Piece, ToolPiece)


class Outbox:
    """Sends tuples of events over `line`. Text that comes soon after other text waits for a moment, and is joined.

    The first text of an answer does not wait.
    """

    def __init__(self, line: Connection, clock: Callable[[], float] = time.monotonic) -> None:
        self._line, self._clock = line, clock
        self._waiting: list[EngineEvent] = []
        self._is_urgent = False
        # Requests that have begun, and of which nothing was told yet.
        self._silent: set[str] = set()
        self._sent = self._asked = clock()
        self._pause_s = _PAUSE_S

    def put(self, events: Iterable[EngineEvent]) -> None:
        """Take events, the order of which is kept for each request."""
        for event in events:
            if not isinstance(event, _TEXT) or event.id in self._silent:
                self._is_urgent = True
            if isinstance(event, Begun):
                self._silent.add(event.id)
            elif self._silent:
                self.forget(getattr(event, "id", ""))
            self._waiting.append(event)

    def forget(self, id: str) -> None:
        """Nobody waits for a request's events any more."""
        self._silent.discard(id)

    def is_due(self) -> bool:
        """Whether it is time to send text, as far as the last step tells how long the next one takes. Asked once a step."""
        now = self._clock()
        step_s, self._asked = now - self._asked, now
        return now + step_s >= self._sent + self._pause_s

    def send(self, *, is_due: bool) -> None:
        """Send what waits, where it is due or something is urgent."""
        if not self._waiting or not (is_due or self._is_urgent):
            return
        message = tuple(_joined(self._waiting))
        self._waiting, self._is_urgent = [], False
        # What is urgent does not put off the text of others.
        if is_due:
            self._sent = self._clock()
            answers = len({event.id for event in message if isinstance(event, _TEXT)})
            self._pause_s = min(max(_PAUSE_S, answers * _EACH_S), _LONGEST_PAUSE_S)
        # Connection.send would make a pickler of its own each time.
        self._line.send_bytes(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))


def _joined(events: Iterable[EngineEvent]) -> list[EngineEvent]:
    """Make one piece of pieces of one request that follow each other and belong together."""
    joined: list[EngineEvent] = []
    last: dict[str, int] = {}
    for event in events:
        id = getattr(event, "id", "")
        place = last.get(id)
        both = None if place is None else _both(joined[place], event)
        if place is not None and both is not None:
            joined[place] = both
        else:
            last[id] = len(joined)
            joined.append(event)
    return joined


def _both(first: EngineEvent, second: EngineEvent) -> EngineEvent | None:
    """Return two pieces as one; None where they cannot be."""
    if isinstance(first, Piece) and isinstance(second, Piece) and first.channel == second.channel:
        logprobs = first.logprobs + second.logprobs
        return Piece(first.id, first.channel, first.text + second.text, logprobs, first.tokens + second.tokens)
    if isinstance(first, ToolPiece) and isinstance(second, ToolPiece) and first.index == second.index:
        return replace(first, arguments=first.arguments + second.arguments, tokens=first.tokens + second.tokens)
    return None
