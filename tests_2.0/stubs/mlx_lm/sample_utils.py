"""Samplers: list of logits to token."""

from __future__ import annotations

import math
from typing import Any, Callable

import mlx.core as mx


def make_sampler(temp: float = 0.0, top_p: float = 0.0, min_p: float = 0.0, top_k: int = 0) -> Callable[[Any], int]:
    def greedy(logits: list[float]) -> int:
        return max(range(len(logits)), key=logits.__getitem__)

    def sample(logits: list[float]) -> int:
        if top_k and not 0 < top_k < len(logits):
            raise ValueError(f"`top_k` has to be an integer in the (0, {len(logits)}) interval, but is {top_k}.")
        best = max(logits)
        weights = [math.exp((value - best) / temp) for value in logits]
        return mx.random.state.choices(range(len(logits)), weights)[0]

    return greedy if temp == 0 else sample


def make_logits_processors(repetition_penalty: float | None = None) -> list[Callable[[Any, Any], Any]]:
    def penalize(tokens: list[int], logits: list[float]) -> list[float]:
        for token in set(tokens[-20:]):
            value = logits[token]
            logits[token] = value * repetition_penalty if value < 0 else value / repetition_penalty
        return logits

    return [penalize] if repetition_penalty else []
