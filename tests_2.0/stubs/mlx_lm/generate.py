"""The decode loop, with the real one's signature as far as it is used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx


def generate_step(
    prompt: Any,
    model: Any,
    *,
    max_tokens: int = 256,
    sampler: Any = None,
    logits_processors: Any = None,
    prompt_cache: Any = None,
) -> Iterator[tuple[int, Any]]:
    if len(prompt) == 0:
        raise ValueError("Either input_embeddings or prompt (or both) must be provided.")
    tokens = mx.array(prompt)
    for _ in range(max_tokens):
        logits = mx.array(model([[tokens[-1]]], cache=prompt_cache))
        for process in logits_processors or ():
            logits = process(tokens, logits)
        token = sampler(logits)
        # The real loop is one step ahead: what it has said lies in the cache when it says it.
        for layer in prompt_cache or ():
            layer.offset += 1
        yield token, logits
        for layer in prompt_cache or ():
            layer.offset -= 1
        tokens = mx.array([*tokens, token])
    for layer in prompt_cache or ():
        layer.offset += 1
