"""Log probabilities of tokens, and tokens that are no whole characters, as OpenAI's API spells them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mlxk2.runner.answer import ChosenToken

# JSON has no infinity; this is what OpenAI's API says of a token that could not have come.
_LEAST_LOGPROB = -9999.0


def token_logprobs(tokens: Iterable[ChosenToken]) -> list[dict[str, Any]]:
    """Return the log probabilities of tokens, as a chat completion has them."""
    return [
        {**_choice(token.token, token.logprob), "top_logprobs": [_choice(top.token, top.logprob) for top in token.top]}
        for token in tokens
    ]


def finite_logprob(logprob: float) -> float:
    """Return a log probability that JSON can spell."""
    return max(logprob, _LEAST_LOGPROB) if logprob == logprob else _LEAST_LOGPROB


def _choice(token: str, logprob: float) -> dict[str, Any]:
    return {"token": spelled(token), "logprob": finite_logprob(logprob), "bytes": list(bytes_of(token))}


def bytes_of(token: str) -> bytes:
    """Return the bytes of a token; those that are no character are escaped in it."""
    return token.encode("utf-8", "surrogateescape")


def spelled(token: str) -> str:
    """Return a token as text, with bytes that are no character as OpenAI's API spells them: \\xf0."""
    return "".join(f"\\x{ord(char) - 0xDC00:02x}" if "\udc80" <= char <= "\udcff" else char for char in token)
