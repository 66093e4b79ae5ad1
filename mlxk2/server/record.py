"""What is noted of one request while it is answered: for the access line and for the metrics."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Callable

from mlxk2.server.protocol import Begun, Embedded, Over, Piece, RequestEvent, ToolPiece

_KEY = "mlxk2.record"


def _ignore(seconds: float, tokens: int) -> None:
    """Nobody watches the gaps."""


@dataclass
class RequestRecord:
    """One request. Units: seconds, tokens; times are those of `time.perf_counter`.

    `on_gaps` is told the time between two tokens of an answer, and of how many tokens; those that come together count alike.
    """

    request_id: str
    started: float = field(default_factory=time.perf_counter)
    model: str | None = None
    stream: bool = False
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    ttft_s: float | None = None
    finish_reason: str | None = None
    error: str | None = None
    route: str = "other"
    on_gaps: Callable[[float, int], None] = _ignore
    _last: dict[str, float] = field(default_factory=dict)
    _said: dict[str, int] = field(default_factory=dict)

    def note(self, event: RequestEvent) -> None:
        """Take what an event says."""
        if isinstance(event, (Piece, ToolPiece)):
            self._note_tokens(event.id, event.tokens)
        elif isinstance(event, Begun):
            self.prompt_tokens += event.prompt_tokens
            self.cached_tokens += event.cached_tokens
        elif isinstance(event, Embedded):
            self.prompt_tokens += event.prompt_tokens
        elif isinstance(event, Over):
            # What came was counted already; this is how many there were, marks included.
            self.completion_tokens += event.usage.completion_tokens - self._said.pop(event.id, 0)
            self.finish_reason = event.reason

    def _note_tokens(self, id: str, tokens: int) -> None:
        now = time.perf_counter()
        if self.ttft_s is None:
            self.ttft_s = now - self.started
        before = self._last.get(id)
        if before is not None and tokens:
            self.on_gaps((now - before) / tokens, tokens)
        self._last[id] = now
        self.completion_tokens += tokens
        self._said[id] = self._said.get(id, 0) + tokens


def put_record(scope: Any, record: RequestRecord) -> None:
    """Attach a record to a request."""
    scope[_KEY] = record


def record_of(scope: Any) -> RequestRecord:
    """Return the record of a request; a new one where nobody attached one."""
    found = scope.get(_KEY)
    return found if isinstance(found, RequestRecord) else RequestRecord("")
