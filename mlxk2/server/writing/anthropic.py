"""Messages, whole and as events. Source: Anthropic's API reference, "Messages" and "Streaming messages"."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlxk2.errors import MlxkError
from mlxk2.events import Usage
from mlxk2.runner import json_answer
from mlxk2.runner.tools import complete_part
from mlxk2.server.errors import anthropic_error
from mlxk2.server.exchange import Collected, Numbered
from mlxk2.server.protocol import Begun, Over
from mlxk2.server.sse import frame

from .blocks import CALL, TEXT, Block, BlockEvent, Closed, Grown, Opened, blocks_of, in_blocks
from .ids import new_id

PING = frame({"type": "ping"}, "ping")
_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


@dataclass
class MessageWriter:
    """Writes one message."""

    model: str = field(init=False)
    id: str = field(default_factory=lambda: new_id("msg_"))

    def whole(self, answers: Sequence[Collected]) -> dict[str, Any]:
        """Return the complete object."""
        answer = answers[0]
        content = [_block(block) for block in blocks_of(answer)]
        # An answer without a word has no content at all.
        content = [block for block in content if block.get("text") != ""]
        return {**self._head(content), **_ending(answer.ending), "usage": _usage(answer.ending.usage)}

    async def frames(self, events: AsyncIterator[Numbered]) -> AsyncIterator[bytes]:
        """Yield the events on the wire."""
        async for event in in_blocks(events):
            if isinstance(event, Begun):
                counts = _usage(Usage(event.prompt_tokens, 0, event.prompt_tokens, event.cached_tokens))
                message = {**self._head([]), "stop_reason": None, "stop_sequence": None, "usage": counts}
                yield frame({"type": "message_start", "message": message}, "message_start")
            elif isinstance(event, Over):
                last = {"type": "message_delta", "delta": _ending(event), "usage": _usage(event.usage)}
                yield frame(last, "message_delta")
                yield frame({"type": "message_stop"}, "message_stop")
            else:
                for data in _block_events(event):
                    yield frame(data, data["type"])

    def _head(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.id, "type": "message", "role": "assistant", "model": self.model, "content": content}


def anthropic_failure(error: MlxkError) -> tuple[bytes, ...]:
    """Return what a stream says of an error."""
    return (frame(anthropic_error(error), "error"),)


def _block_events(event: BlockEvent) -> Iterator[dict[str, Any]]:
    if isinstance(event, Opened):
        empty = Block(event.block.kind, event.block.index, event.block.call_id, event.block.name)
        yield {"type": "content_block_start", "index": event.block.index, "content_block": _block(empty)}
    elif isinstance(event, Grown):
        yield {"type": "content_block_delta", "index": event.block.index, "delta": _delta(event)}
    elif isinstance(event, Closed):
        yield {"type": "content_block_stop", "index": event.block.index}


def _block(block: Block) -> dict[str, Any]:
    if block.kind == TEXT:
        return {"type": "text", "text": block.text}
    if block.kind == CALL:
        return {"type": "tool_use", "id": block.call_id, "name": block.name, "input": _input(block.text)}
    return {"type": "thinking", "thinking": block.text, "signature": ""}


def _delta(event: Grown) -> dict[str, Any]:
    if event.block.kind == TEXT:
        return {"type": "text_delta", "text": event.text}
    if event.block.kind == CALL:
        return {"type": "input_json_delta", "partial_json": event.text}
    return {"type": "thinking_delta", "thinking": event.text}


def _input(arguments: str) -> Any:
    """Return the arguments as a value; of cut ones the members that are complete, as a client reads them in a stream."""
    try:
        return json_answer.parse(arguments or "{}")
    except ValueError:
        return complete_part(arguments) or {}


def _ending(over: Over) -> dict[str, Any]:
    reason = "stop_sequence" if over.stop is not None else _REASONS.get(over.reason, "end_turn")
    return {"stop_reason": reason, "stop_sequence": over.stop}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }
