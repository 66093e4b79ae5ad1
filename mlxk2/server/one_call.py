"""At most one tool call an answer, for clients that take no more: what else the model calls is left out."""

from __future__ import annotations

from collections.abc import AsyncIterator

from mlxk2.server.exchange import Numbered, close
from mlxk2.server.protocol import ToolLost, ToolPiece


async def first_calls(events: AsyncIterator[Numbered]) -> AsyncIterator[Numbered]:
    """Yield the events without those of further calls; a call that turned out to be none counts as none."""
    kept: dict[int, int] = {}
    try:
        async for number, event in events:
            if isinstance(event, (ToolPiece, ToolLost)) and kept.setdefault(number, event.index) != event.index:
                continue
            if isinstance(event, ToolLost):
                del kept[number]
            yield number, event
    finally:
        await close(events)
