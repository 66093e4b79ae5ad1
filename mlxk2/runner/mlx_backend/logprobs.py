"""Log probabilities of one step, taken out of MLX's arrays."""

from __future__ import annotations

from typing import Any, NamedTuple

import mlx.core as mx


class TokenLogprobs(NamedTuple):
    """The natural log probability of the token that was taken, and the likeliest (id, log probability) pairs."""

    logprob: float
    top: tuple[tuple[int, float], ...]


def likeliest(logprobs: Any, token: int, count: int) -> TokenLogprobs:
    """Return the log probability of `token` and of the `count` likeliest tokens, best first.

    Shape: `logprobs`: (V,), after penalties, biases and masks; V is larger than `count`.
    """
    top: tuple[tuple[int, float], ...] = ()
    if count:
        ids = mx.argpartition(-logprobs, kth=count - 1)[:count].tolist()
        pairs = [(int(number), float(logprobs[number].item())) for number in ids]
        top = tuple(sorted((pair for pair in pairs if pair[1] != float("-inf")), key=lambda pair: -pair[1]))
    return TokenLogprobs(float(logprobs[token].item()), top)
