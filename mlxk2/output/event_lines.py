"""Events as lines of JSON, for programs that follow the work. The shapes are definition `event` of the schema."""

from __future__ import annotations

import json
from typing import Any, Callable

from mlxk2.events import Event, Progress, Started, Warned


class EventLines:
    """Writes each event at once; progress that tells nothing new is left out."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._told: dict[str | None, Progress] = {}

    def __call__(self, event: Event) -> None:
        line = self._line(event)
        if line is not None:
            self._write(json.dumps(line, ensure_ascii=True) + "\n")

    def _line(self, event: Event) -> dict[str, Any] | None:
        if isinstance(event, Started):
            return {"event": "started", "label": event.label}
        if isinstance(event, Warned):
            return {"event": "warning", "message": event.message}
        if isinstance(event, Progress) and self._told.get(event.name) != event:
            self._told[event.name] = event
            numbers = {"done": event.done, "total": event.total, "unit": event.unit}
            return {"event": "progress", **numbers, "name": event.name}
        return None
