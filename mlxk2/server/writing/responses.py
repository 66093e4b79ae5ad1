"""Responses, whole and as events. Source: OpenAI's API reference, "The response object" and "Streaming events"."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlxk2.errors import MlxkError
from mlxk2.server.errors import openai_error
from mlxk2.server.exchange import Collected, Numbered
from mlxk2.server.packed import packed
from mlxk2.server.protocol import Begun, Over
from mlxk2.server.sse import frame

from .blocks import CALL, TEXT, Block, BlockEvent, Closed, Grown, Opened, blocks_of, in_blocks
from .ids import new_id
from .logprobs import token_logprobs

# What a client said is not repeated to it when the answer has failed, maybe for that very reason.
_NOT_REPEATED: dict[str, Any] = {
    "instructions": None, "metadata": {}, "text": {"format": {"type": "text"}}, "tools": [], "tool_choice": "auto", "user": None,
}  # fmt: skip
_PREFIXES = {TEXT: "msg_", CALL: "fc_"}
_DELTAS = {TEXT: "response.output_text", CALL: "response.function_call_arguments"}


@dataclass
class ResponseWriter:
    """Writes one response. `echo` has the fields that an answer repeats of its request.

    With `packs_thoughts` these come in a form as well that means something to this server alone.
    """

    model: str = field(init=False)
    echo: dict[str, Any]
    packs_thoughts: bool = False
    id: str = field(default_factory=lambda: new_id("resp_"))
    created: int = field(default_factory=lambda: int(time.time()))
    _events: int = 0
    _ids: dict[int, str] = field(default_factory=dict)

    def whole(self, answers: Sequence[Collected]) -> dict[str, Any]:
        """Return the complete object."""
        return self._object(answers[0].ending, [self._done(block) for block in blocks_of(answers[0])])

    async def frames(self, events: AsyncIterator[Numbered]) -> AsyncIterator[bytes]:
        """Yield the events on the wire."""
        done: list[dict[str, Any]] = []
        async for event in in_blocks(events):
            if isinstance(event, Begun):
                for kind in ("created", "in_progress"):
                    yield self._frame(f"response.{kind}", {"response": self._object(None, [])})
            elif isinstance(event, Over):
                response = self._object(event, done)
                yield self._frame(f"response.{response['status']}", {"response": response})
            else:
                for kind, data in self._block_events(event, done):
                    yield self._frame(kind, data)

    def failure(self, error: MlxkError) -> tuple[bytes, ...]:
        """Return what a stream says of an error."""
        told = openai_error(error)["error"]
        failed = {**self._object(None, []), **_NOT_REPEATED}
        failed |= {"status": "failed", "error": {"code": told["code"] or "server_error", "message": told["message"]}}
        said = {"code": told["code"], "message": told["message"], "param": told["param"]}
        return (self._frame("error", said), self._frame("response.failed", {"response": failed}))

    def _block_events(self, event: BlockEvent, done: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
        if isinstance(event, Opened):
            yield from self._opening(event.block)
        elif isinstance(event, Grown):
            yield self._growing(event)
        elif isinstance(event, Closed):
            item = self._done(event.block)
            if not event.block.is_lost:
                done.append(item)
            yield from self._closing(event.block, item)

    def _object(self, ending: Over | None, output: list[dict[str, Any]]) -> dict[str, Any]:
        status = "in_progress" if ending is None else _status(ending)
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "model": self.model,
            "output": output,
            "previous_response_id": None,
            "store": False,
            "truncation": "disabled",
            **self.echo,
            "usage": None if ending is None else _usage(ending),
            **({} if ending is None or ending.value_problem is None else {"value_problem": ending.value_problem}),
        }

    def _done(self, block: Block) -> dict[str, Any]:
        return self._item(block, "completed" if block.is_whole and not block.is_lost else "incomplete")

    def _item(self, block: Block, status: str) -> dict[str, Any]:
        head = {"id": self._item_id(block), "status": status}
        if block.kind == CALL:
            call = {"call_id": block.call_id, "name": block.name, "arguments": block.text}
            return {**head, "type": "function_call", **call}
        if block.kind == TEXT:
            return {**head, "type": "message", "role": "assistant", "content": [_text_part(block)]}
        thoughts = [{"type": "reasoning_text", "text": block.text}]
        word = {"encrypted_content": packed(block.text)} if self.packs_thoughts else {}
        return {**head, "type": "reasoning", "summary": [], "content": thoughts, **word}

    def _opening(self, block: Block) -> Iterator[tuple[str, dict[str, Any]]]:
        empty = Block(block.kind, block.index, block.call_id, block.name)
        item = {**self._item(empty, "in_progress")}
        if "content" in item:
            item["content"] = []
        yield "response.output_item.added", {"output_index": block.index, "item": item}
        if block.kind != CALL:
            yield "response.content_part.added", {**self._place(block), "part": _part(empty)}

    def _growing(self, event: Grown) -> tuple[str, dict[str, Any]]:
        kind = _DELTAS.get(event.block.kind, "response.reasoning_text")
        data = {**self._place(event.block), "delta": event.text}
        if event.block.kind == TEXT:
            data["logprobs"] = token_logprobs(event.logprobs)
        return f"{kind}.delta", data

    def _closing(self, block: Block, item: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        kind = _DELTAS.get(block.kind, "response.reasoning_text")
        place = self._place(block)
        if block.is_lost:
            # Nothing of it is to be done.
            pass
        elif block.kind == CALL:
            yield f"{kind}.done", {**place, "name": block.name, "arguments": block.text}
        else:
            logprobs = {"logprobs": token_logprobs(block.logprobs)} if block.kind == TEXT else {}
            yield f"{kind}.done", {**place, "text": block.text, **logprobs}
            yield "response.content_part.done", {**place, "part": _part(block)}
        yield "response.output_item.done", {"output_index": block.index, "item": item}

    def _place(self, block: Block) -> dict[str, Any]:
        place = {"item_id": self._item_id(block), "output_index": block.index}
        return place if block.kind == CALL else {**place, "content_index": 0}

    def _item_id(self, block: Block) -> str:
        return self._ids.setdefault(block.index, new_id(_PREFIXES.get(block.kind, "rs_")))

    def _frame(self, kind: str, data: dict[str, Any]) -> bytes:
        number = self._events
        self._events += 1
        return frame({"type": kind, "sequence_number": number, **data}, kind)


def _part(block: Block) -> dict[str, Any]:
    return _text_part(block) if block.kind == TEXT else {"type": "reasoning_text", "text": block.text}


def _text_part(block: Block) -> dict[str, Any]:
    logprobs = token_logprobs(block.logprobs)
    return {"type": "output_text", "text": block.text, "annotations": [], "logprobs": logprobs}


def _status(over: Over) -> str:
    return "incomplete" if over.reason == "length" else "completed"


def _usage(ending: Over) -> dict[str, Any]:
    usage = ending.usage
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": ending.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }
