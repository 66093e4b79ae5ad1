"""The decode loop, with the real one's signature as far as it is used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def generate_step(
    prompt: Any,
    model: Any,
    *,
    max_tokens: int = 256,
    sampler: Any = None,
    logits_processors: Any = None,
    prefill_step_size: int = 2048,
) -> Iterator[tuple[int, Any]]:
    if len(prompt) == 0:
        raise ValueError("Either input_embeddings or prompt (or both) must be provided.")
    tokens = list(prompt)
    for _ in range(max_tokens):
        logits = model.logits(tokens[-1])
        for process in logits_processors or ():
            logits = process(tokens, logits)
        token = sampler(logits)
        yield token, logits
        tokens.append(token)
