"""Drives operations that yield events and return a result. Ctrl-C between two events belongs to the operation. Knows no event."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Callable, Optional

Sink = Callable[[Any], None]
Steps = Generator[Any, None, Any]


def drain(steps: Steps, sink: Optional[Sink]) -> Any:
    """Hand every event to `sink` and return the generator's result; Ctrl-C in the sink is passed on to the generator."""
    try:
        event = next(steps)
        while True:
            try:
                if sink is not None:
                    sink(event)
            except KeyboardInterrupt as pressed:
                event = steps.throw(pressed)
            else:
                event = next(steps)
    except StopIteration as end:
        return end.value
    finally:
        steps.close()


def noted(steps: Steps, note: Sink) -> Steps:
    """Pass every event on, after `note` has seen it; what is thrown in here is thrown in there."""
    try:
        event = next(steps)
        while True:
            note(event)
            try:
                yield event
            except KeyboardInterrupt as pressed:
                event = steps.throw(pressed)
            else:
                event = next(steps)
    except StopIteration as end:
        return end.value
    finally:
        steps.close()
