"""An answer as a row of blocks - thoughts, text, calls - one open at a time, as two of the APIs stream it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Union

from mlxk2.runner.answer import ChosenToken
from mlxk2.runner.tools import is_json
from mlxk2.server.exchange import Collected, Numbered
from mlxk2.server.protocol import Begun, Over, Piece, RequestEvent, ToolLost, ToolPiece

THOUGHTS, TEXT, CALL = "thoughts", "text", "call"


@dataclass
class Block:
    """One part of an answer; of a call `text` is its arguments.

    It is not `is_whole` where the limit cut it, and `is_lost` where it was begun as a call and is none.
    """

    kind: str
    index: int
    call_id: str = ""
    name: str = ""
    parts: list[str] = field(default_factory=list)
    logprobs: list[ChosenToken] = field(default_factory=list)
    is_whole: bool = True
    is_lost: bool = False

    def end(self, reason: str) -> None:
        """It is the last of an answer that ended for a `reason`; a call may have been complete just when the limit came."""
        self.is_whole = reason != "length" or (self.kind == CALL and is_json(self.text))

    @property
    def text(self) -> str:
        """What it says."""
        return "".join(self.parts)


@dataclass(frozen=True)
class Opened:
    """A block begins."""

    block: Block


@dataclass(frozen=True)
class Grown:
    """A block has more text."""

    block: Block
    text: str
    logprobs: tuple[ChosenToken, ...] = ()


@dataclass(frozen=True)
class Closed:
    """A block is complete."""

    block: Block


BlockEvent = Union[Opened, Grown, Closed, Begun, Over]


def blocks_of(answer: Collected) -> list[Block]:
    """Return the blocks of a complete answer."""
    blocks: list[Block] = []
    if answer.reasoning is not None:
        blocks.append(Block(THOUGHTS, 0, parts=[answer.reasoning]))
    # As in a stream, only an answer without a word has an empty text.
    if answer.text or not (blocks or answer.calls):
        blocks.append(Block(TEXT, len(blocks), parts=[answer.text], logprobs=answer.logprobs))
    blocks += [
        Block(CALL, len(blocks) + number, id, name, [arguments])
        for number, (id, name, arguments) in enumerate(answer.tools)
    ]
    blocks[-1].end(answer.ending.reason)
    return blocks


async def in_blocks(events: AsyncIterator[Numbered]) -> AsyncIterator[BlockEvent]:
    """Yield the events of one answer, block after block; an answer without a word has one empty text."""
    blocks: list[Block] = []
    current: tuple[str, int] | None = None
    async for _, event in events:
        if isinstance(event, ToolLost):
            # Parts of it were sent as a call; now it is said as text, whole.
            blocks[-1].is_lost = True
            event = Piece(event.id, "answer", event.text)
        if isinstance(event, Begun):
            yield event
        elif isinstance(event, Over):
            if not blocks:
                blocks.append(Block(TEXT, 0))
                yield Opened(blocks[-1])
            blocks[-1].end(event.reason)
            yield Closed(blocks[-1])
            yield event
        elif isinstance(event, (Piece, ToolPiece)):
            kind = _kind(event)
            if kind != current and isinstance(event, Piece) and not event.text:
                continue
            if kind != current:
                if blocks:
                    yield Closed(blocks[-1])
                current = kind
                blocks.append(_opened(event, len(blocks)))
                yield Opened(blocks[-1])
            yield _grown(blocks[-1], event)


def _kind(event: RequestEvent) -> tuple[str, int]:
    if isinstance(event, ToolPiece):
        return CALL, event.index
    return (TEXT if isinstance(event, Piece) and event.channel == "answer" else THOUGHTS), 0


def _opened(event: Piece | ToolPiece, index: int) -> Block:
    if isinstance(event, ToolPiece):
        return Block(CALL, index, event.call_id or f"call_{event.index}", event.name or "")
    return Block(_kind(event)[0], index)


def _grown(block: Block, event: Piece | ToolPiece) -> Grown:
    if isinstance(event, ToolPiece):
        block.parts.append(event.arguments)
        return Grown(block, event.arguments)
    block.parts.append(event.text)
    block.logprobs.extend(event.logprobs)
    return Grown(block, event.text, event.logprobs)
