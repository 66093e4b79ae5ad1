"""What the APIs say alike: ids, counts, log probabilities."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mlxk2 import __version__
from mlxk2.errors import MlxkError
from mlxk2.runner.answer import ChosenToken
from mlxk2.server.errors import openai_error
from mlxk2.server.exchange import Collected
from mlxk2.server.protocol import Over
from mlxk2.server.sse import frame

FINGERPRINT = f"mlxk2_{__version__}"

# JSON has no infinity; this is what OpenAI's API says of a token that could not have come.
_LEAST_LOGPROB = -9999.0


def new_id(prefix: str) -> str:
    """Return an id that nobody else has."""
    return f"{prefix}{uuid.uuid4().hex}"


def usage_of(answers: Iterable[Collected], choices_a_prompt: int = 1) -> dict[str, Any]:
    """Return the counts of all answers; a prompt that several of them share counts once."""
    return usage_json([answer.ending for answer in answers], choices_a_prompt)


def usage_json(endings: Sequence[Over], choices_a_prompt: int = 1) -> dict[str, Any]:
    """Return the counts as OpenAI's API gives them."""
    usages = [ending.usage for ending in endings]
    prompts = usages[::choices_a_prompt]
    prompt_tokens = sum(usage.prompt_tokens for usage in prompts)
    completion_tokens = sum(usage.completion_tokens for usage in usages)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": sum(usage.cached_tokens for usage in prompts)},
        "completion_tokens_details": {"reasoning_tokens": sum(ending.reasoning_tokens for ending in endings)},
    }


def token_logprobs(tokens: Iterable[ChosenToken]) -> list[dict[str, Any]]:
    """Return the log probabilities of tokens, as a chat completion has them."""
    return [
        {**_choice(token.token, token.logprob), "top_logprobs": [_choice(top.token, top.logprob) for top in token.top]}
        for token in tokens
    ]


def number(logprob: float) -> float:
    """Return a log probability that JSON can spell."""
    return max(logprob, _LEAST_LOGPROB) if logprob == logprob else _LEAST_LOGPROB


def _choice(token: str, logprob: float) -> dict[str, Any]:
    return {"token": spelled(token), "logprob": number(logprob), "bytes": list(bytes_of(token))}


def bytes_of(token: str) -> bytes:
    """Return the bytes of a token; those that are no character are escaped in it."""
    return token.encode("utf-8", "surrogateescape")


def spelled(token: str) -> str:
    """Return a token as text, with bytes that are no character as OpenAI's API spells them: \\xf0."""
    return "".join(f"\\x{ord(char) - 0xDC00:02x}" if "\udc80" <= char <= "\udcff" else char for char in token)


def openai_failure(error: MlxkError, names: Mapping[str, str] | None = None) -> tuple[bytes, ...]:
    """Return what a stream says of an error, as OpenAI's clients understand it. `names`: see `openai_error`."""
    return (frame(openai_error(error, names)),)
