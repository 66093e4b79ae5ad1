"""What the HTTP side is told: at once where somebody waits for it, and where tokens come faster than anybody reads, some at a time."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterable
from multiprocessing.connection import Connection
from typing import Callable

from mlxk2.server.protocol import EngineEvent, Piece

# Seconds between two messages of text: a screen shows no more of them.
_PAUSE_S = 1 / 60


class Outbox:
    """Sends tuples of events over `line`. Text that comes soon after other text waits for a moment, and is joined."""

    def __init__(self, line: Connection, clock: Callable[[], float] = time.monotonic) -> None:
        self._line, self._clock = line, clock
        self._waiting: list[EngineEvent] = []
        self._is_urgent = False
        self._sent = self._asked = clock()

    def put(self, events: Iterable[EngineEvent]) -> None:
        """Take events, the order of which is kept for each request."""
        for event in events:
            self._is_urgent = self._is_urgent or type(event) is not Piece
            self._waiting.append(event)

    def send(self, *, can_wait: bool) -> None:
        """Send what waits; with `can_wait` not before it is time, as far as the last step tells how long the next one takes."""
        now = self._clock()
        step_s, self._asked = now - self._asked, now
        if not self._waiting or (can_wait and not self._is_urgent and now + step_s < self._sent + _PAUSE_S):
            return
        message = tuple(_joined(self._waiting))
        self._waiting, self._is_urgent, self._sent = [], False, now
        # Connection.send would make a pickler of its own each time.
        self._line.send_bytes(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))


def _joined(events: Iterable[EngineEvent]) -> list[EngineEvent]:
    """Make one piece of pieces of one request that follow each other on one channel."""
    joined: list[EngineEvent] = []
    last: dict[str, int] = {}
    for event in events:
        id = getattr(event, "id", "")
        place = last.get(id)
        before = None if place is None else joined[place]
        if type(event) is Piece and type(before) is Piece and before.channel == event.channel:
            assert place is not None
            joined[place] = before.followed_by(event)
        else:
            last[id] = len(joined)
            joined.append(event)
    return joined
