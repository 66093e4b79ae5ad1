"""Events as lines of JSON, for programs that follow the work. The shapes are definition `event` of the schema."""

from __future__ import annotations

import json
from typing import Any, Callable

from mlxk2.events import REASONING, Delta, Event, Finished, Progress, Started, Warned


class EventLines:
    """Writes each event at once; progress that tells nothing new is left out, and reasoning where it is unwanted."""

    def __init__(self, write: Callable[[str], None], *, hide_reasoning: bool = False) -> None:
        self._write = write
        self._hide_reasoning = hide_reasoning
        self._told: dict[str | None, Progress] = {}

    def __call__(self, event: Event) -> None:
        line = self._line(event)
        if line is not None:
            # Escaped, so that a text which ends inside a surrogate pair is still a valid line.
            self._write(json.dumps(line, ensure_ascii=True) + "\n")

    def _line(self, event: Event) -> dict[str, Any] | None:
        if isinstance(event, Started):
            return {"event": "started", "label": event.label}
        if isinstance(event, Warned):
            return {"event": "warning", "message": event.message}
        if isinstance(event, Delta):
            hidden = self._hide_reasoning and event.channel == REASONING
            return None if hidden else {"event": "delta", "channel": event.channel, "text": event.text}
        if isinstance(event, Finished):
            return {"event": "finished", "finish_reason": event.reason, "usage": vars(event.usage)}
        return self._progress(event)

    def _progress(self, event: Progress) -> dict[str, Any] | None:
        if self._told.get(event.name) == event:
            return None
        self._told[event.name] = event
        numbers = {"done": event.done, "total": event.total, "unit": event.unit}
        return {"event": "progress", **numbers, "name": event.name}
