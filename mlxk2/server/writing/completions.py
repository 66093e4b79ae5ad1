"""Completions, whole and in chunks. Source: OpenAI's API reference, "The completion object"."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlxk2.runner.answer import ChosenToken
from mlxk2.server.exchange import Collected, Numbered
from mlxk2.server.protocol import Over, Piece
from mlxk2.server.sse import DONE, frame

from .ids import FINGERPRINT, new_id
from .logprobs import bytes_of, finite_logprob, spelled
from .usage import usage_json, usage_of


@dataclass
class CompletionWriter:
    """Writes the answers to one request. `echoes` has what each choice begins with."""

    model: str = field(init=False)
    echoes: Sequence[str]
    choices_a_prompt: int = 1
    wants_usage: bool = False
    wants_logprobs: bool = False
    id: str = field(default_factory=lambda: new_id("cmpl-"))
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, answers: Sequence[Collected]) -> dict[str, Any]:
        """Return the complete object."""
        choices = []
        for number, answer in enumerate(answers):
            logprobs = _logprobs(answer.logprobs, 0) if self.wants_logprobs else None
            text = self.echoes[number] + answer.text
            choices.append({"index": number, "text": text, "logprobs": logprobs, "finish_reason": answer.ending.reason})
        return {**self._head(), "choices": choices, "usage": usage_of(answers, self.choices_a_prompt)}

    async def frames(self, events: AsyncIterator[Numbered]) -> AsyncIterator[bytes]:
        """Yield the chunks on the wire."""
        offsets: dict[int, int] = {}
        endings: list[Over | None] = [None] * len(self.echoes)
        async for number, event in events:
            if number not in offsets:
                offsets[number] = 0
                if self.echoes[number]:
                    yield self._chunk(number, self.echoes[number])
            if isinstance(event, Over):
                endings[number] = event
                yield self._chunk(number, "", reason=event.reason)
            elif isinstance(event, Piece):
                logprobs = (
                    _logprobs(event.logprobs, offsets[number]) if self.wants_logprobs and event.logprobs else None
                )
                offsets[number] += len(event.text)
                yield self._chunk(number, event.text, logprobs)
        if self.wants_usage:
            counts = usage_json([ending for ending in endings if ending is not None], self.choices_a_prompt)
            yield frame({**self._head(), "choices": [], "usage": counts})
        yield DONE

    def _head(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
        }

    def _chunk(self, number: int, text: str, logprobs: Any = None, reason: str | None = None) -> bytes:
        choice = {"index": number, "text": text, "logprobs": logprobs, "finish_reason": reason}
        chunk = {**self._head(), "choices": [choice]}
        if self.wants_usage:
            chunk["usage"] = None
        return frame(chunk)


def _logprobs(tokens: Sequence[ChosenToken], offset: int) -> dict[str, Any]:
    """Return log probabilities as completions have them. `offset`: the characters of the answer before these tokens."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        # A character counts where it begins.
        offset += sum(byte & 0xC0 != 0x80 for byte in bytes_of(token.token))
    return {
        "tokens": [_spelled(token.token) for token in tokens],
        "token_logprobs": [finite_logprob(token.logprob) for token in tokens],
        "top_logprobs": [{_spelled(top.token): finite_logprob(top.logprob) for top in token.top} for token in tokens],
        "text_offset": offsets,
    }


def _spelled(token: str) -> str:
    """Return a token as completions have it, which mark what is only a part of a character."""
    text = spelled(token)
    return text if text == token else f"bytes:{text}"
