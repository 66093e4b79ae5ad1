"""Samplers and filters: list of logits to token."""

from __future__ import annotations

import math
from typing import Any, Callable

import mlx.core as mx


def make_sampler(temp: float = 0.0) -> Callable[[Any], int]:
    def greedy(logits: list[float]) -> int:
        return max(range(len(logits)), key=logits.__getitem__)

    if temp != 0:
        raise NotImplementedError("only the greedy one is used")
    return greedy


def apply_top_p(logits: list[float], top_p: float) -> Any:
    return mx.array(logits)


def apply_min_p(logits: list[float], min_p: float) -> Any:
    least = max(logits) + math.log(min_p)
    return mx.array(value if value >= least else -1e30 for value in logits)


def apply_top_k(logits: list[float], top_k: int) -> Any:
    if not 0 < top_k < len(logits):
        raise ValueError(f"`top_k` has to be an integer in the (0, {len(logits)}) interval, but is {top_k}.")
    least = sorted(logits)[-top_k]
    return mx.array(value if value >= least else -1e30 for value in logits)


def make_logits_processors(
    repetition_penalty: float | None = None, logit_bias: dict[int, float] | None = None
) -> list[Callable[[Any, Any], Any]]:
    def bias(_tokens: list[int], logits: list[float]) -> list[float]:
        for token, value in (logit_bias or {}).items():
            logits[token] += value
        return logits

    def penalize(tokens: list[int], logits: list[float]) -> list[float]:
        for token in set(tokens[-20:]):
            value = logits[token]
            logits[token] = value * repetition_penalty if value < 0 else value / repetition_penalty
        return logits

    return [*([bias] if logit_bias else []), *([penalize] if repetition_penalty else [])]
