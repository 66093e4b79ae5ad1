"""Chat completions, whole and in chunks. Source: OpenAI's API reference, "The chat completion (chunk) object"."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlxk2.server.exchange import Collected, Numbered
from mlxk2.server.protocol import Begun, Over, Piece, RequestEvent, ToolLost, ToolPiece
from mlxk2.server.sse import DONE, frame

from .ids import FINGERPRINT, new_id
from .logprobs import token_logprobs
from .usage import usage_json, usage_of


@dataclass
class ChatWriter:
    """Writes one answer; all its parts have the same id."""

    model: str = field(init=False)
    count: int
    wants_usage: bool = False
    wants_logprobs: bool = False
    id: str = field(default_factory=lambda: new_id("chatcmpl-"))
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, answers: Sequence[Collected]) -> dict[str, Any]:
        """Return the complete object."""
        return {
            **self._head("chat.completion"),
            "choices": [self._choice(number, answer) for number, answer in enumerate(answers)],
            "usage": usage_of(answers, self.count),
        }

    async def frames(self, events: AsyncIterator[Numbered]) -> AsyncIterator[bytes]:
        """Yield the chunks on the wire."""
        begun: set[int] = set()
        endings: list[Over | None] = [None] * self.count
        async for number, event in events:
            if number not in begun:
                begun.add(number)
                yield self._chunk(number, {"role": "assistant", "content": ""})
            if isinstance(event, Over):
                endings[number] = event
                yield self._chunk(number, {}, event)
            elif not isinstance(event, Begun):
                delta = _delta(event)
                if delta:
                    yield self._chunk(number, delta, event)
        if self.wants_usage:
            counts = usage_json([ending for ending in endings if ending is not None], self.count)
            yield frame({**self._head("chat.completion.chunk"), "choices": [], "usage": counts})
        yield DONE

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
        }

    def _choice(self, number: int, answer: Collected) -> dict[str, Any]:
        ending = answer.ending
        message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
        if answer.reasoning is not None:
            message["reasoning_content"] = answer.reasoning
        if answer.calls:
            message["content"] = answer.text or None
            message["tool_calls"] = [
                {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
                for id, name, arguments in answer.tools
            ]
        logprobs = {"content": token_logprobs(answer.logprobs), "refusal": None} if self.wants_logprobs else None
        choice = {"index": number, "message": message, "logprobs": logprobs, "finish_reason": ending.reason}
        if ending.value_problem is not None:
            choice["value_problem"] = ending.value_problem
        return choice

    def _chunk(self, number: int, delta: dict[str, Any], event: RequestEvent | None = None) -> bytes:
        logprobs = None
        if self.wants_logprobs and isinstance(event, Piece) and event.channel == "answer" and event.logprobs:
            logprobs = {"content": token_logprobs(event.logprobs), "refusal": None}
        reason = event.reason if isinstance(event, Over) else None
        choice = {"index": number, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        if isinstance(event, Over) and event.value_problem is not None:
            choice["value_problem"] = event.value_problem
        chunk = {**self._head("chat.completion.chunk"), "choices": [choice]}
        if self.wants_usage:
            chunk["usage"] = None
        return frame(chunk)


def _delta(event: RequestEvent) -> dict[str, Any]:
    if isinstance(event, Piece):
        return {"content" if event.channel == "answer" else "reasoning_content": event.text}
    if isinstance(event, ToolLost):
        return {"content": event.text}
    if not isinstance(event, ToolPiece):
        return {}
    call: dict[str, Any] = {"index": event.index}
    if event.name is not None:
        call |= {"id": event.call_id or f"call_{event.index}", "type": "function"}
    call["function"] = {**({} if event.name is None else {"name": event.name}), "arguments": event.arguments}
    return {"tool_calls": [call]}
