"""From sampling values to what mlx-lm calls at each step: a sampler, and processors of the logits."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Any, Callable

import mlx.core as mx

from mlxk2.runner.request import SEEDS, Sampling

from .library import MlxLm

Sampler = Callable[[Any], Any]
Processor = Callable[[Any, Any], Any]

# How far mlx-lm's repetition penalty looks back, prompt included.
REPETITION_TOKENS = 20


def make_sampler(mlx_lm: MlxLm, sampling: Sampling, vocab_size: int, drawn: int = 0) -> Sampler:
    """Return what draws a token from log probabilities. `drawn`: how many tokens of this answer were drawn before.

    Shape: logprobs: (B, V) -> (B,).
    """
    if sampling.is_greedy:
        sampler: Sampler = mlx_lm.samplers.make_sampler(temp=0.0)
        return sampler
    return _KeyedSampler(sampling, _filters(mlx_lm, sampling, vocab_size), drawn)


class _KeyedSampler:
    """Draws with random keys of its own, a new one each step, so that nothing else that draws can disturb it."""

    def __init__(self, sampling: Sampling, filters: tuple[Sampler, ...], drawn: int) -> None:
        self._filters = filters
        scale = 1.0 / sampling.temperature
        self._draw = mx.compile(lambda logprobs, key: mx.random.categorical(logprobs * scale, key=key))
        self._key = (_first_key(sampling.seed) + drawn) % SEEDS

    def __call__(self, logprobs: Any) -> Any:
        for keep in self._filters:
            logprobs = keep(logprobs)
        key = mx.random.key(self._key)
        self._key = (self._key + 1) % SEEDS
        return self._draw(logprobs, key)


def _first_key(seed: int | None) -> int:
    """The key that an answer begins with. Neighbouring seeds are far apart, else one would draw what another drew before."""
    entropy = os.urandom(8) if seed is None else hashlib.sha256(seed.to_bytes(8, "little")).digest()[:8]
    return int.from_bytes(entropy, "little")


def _filters(mlx_lm: MlxLm, sampling: Sampling, vocab_size: int) -> tuple[Sampler, ...]:
    """mlx-lm's own filters, in its order. One that lets all tokens pass would raise inside a compiled function."""
    filters: list[Sampler] = []
    if 0 < sampling.top_p < 1:
        filters.append(lambda logprobs: mlx_lm.samplers.apply_top_p(logprobs, sampling.top_p))
    if sampling.min_p > 0:
        filters.append(lambda logprobs: mlx_lm.samplers.apply_min_p(logprobs, sampling.min_p))
    if 0 < sampling.top_k < vocab_size:
        filters.append(lambda logprobs: mlx_lm.samplers.apply_top_k(logprobs, sampling.top_k))
    return tuple(filters)


def make_processors(
    mlx_lm: MlxLm, sampling: Sampling, before: Sequence[int] = (), said: Sequence[int] = ()
) -> list[Processor]:
    """Return what changes the logits before a token is drawn: biases and penalties.

    `before`: prompt ids that the engine does not show to processors, since they lie in the KV cache already. `said`:
    those ids of the prompt that are a part of the answer.
    """
    bias = dict(sampling.logit_bias)
    processors: list[Processor] = list(mlx_lm.samplers.make_logits_processors(logit_bias=bias)) if bias else []
    if sampling.repetition_penalty != 1:
        made = mlx_lm.samplers.make_logits_processors(repetition_penalty=sampling.repetition_penalty)
        processors += [_preceded(processor, before[-REPETITION_TOKENS:]) for processor in made]
    if sampling.presence_penalty or sampling.frequency_penalty:
        processors.append(_CountPenalty(sampling.presence_penalty, sampling.frequency_penalty, said))
    return processors


def below(limit: int) -> Processor:
    """Return a processor that forbids every id from `limit` on."""

    def forbid(_tokens: Any, logits: Any) -> Any:
        return mx.where(mx.arange(logits.shape[-1]) < limit, logits, -mx.inf)

    return forbid


def _preceded(processor: Processor, before: Sequence[int]) -> Processor:
    """Let `processor` see `before` in front of the tokens it is shown."""
    if not before:
        return processor
    head = mx.array(list(before))

    def with_head(tokens: Any, logits: Any) -> Any:
        if len(tokens) < REPETITION_TOKENS:
            tokens = mx.concatenate([head.astype(tokens.dtype), tokens])
        return processor(tokens, logits)

    return with_head


class _CountPenalty:
    """Presence and frequency penalties over everything that was generated, the prompt not counted.

    Source: the definition in OpenAI's API reference; mlx-lm's own look at the last 20 tokens, prompt included.
    """

    def __init__(self, presence: float, frequency: float, said: Sequence[int]) -> None:
        self._presence = presence
        self._frequency = frequency
        self._before = mx.array(list(said), dtype=mx.uint32)
        self._prompt_size: int | None = None

    def __call__(self, tokens: Any, logits: Any) -> Any:
        if self._prompt_size is None:
            self._prompt_size = len(tokens)
        said = mx.concatenate([self._before, tokens[self._prompt_size :].astype(mx.uint32)])
        if len(said) == 0:
            return logits
        counts = mx.zeros((logits.shape[-1],), dtype=logits.dtype).at[said].add(mx.array(1, dtype=logits.dtype))
        return logits - self._frequency * counts - self._presence * (counts > 0)
