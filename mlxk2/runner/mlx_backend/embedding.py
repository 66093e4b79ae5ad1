"""What a model makes of whole texts: the last hidden state of the last token, as vectors of length one."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from mlxk2 import errors
from mlxk2.runner.request import CacheOptions

from .cache_kinds import empty_layers
from .engine import Engine
from .kv_state import appends
from .library import translated


def embed(engine: Engine, texts: Sequence[Sequence[int]]) -> list[tuple[float, ...]]:
    """Return one vector a text.

    Shape: each text: (T,), T >= 1, each id in [0, vocab_size).
    Raises: IncompatibleModel, GenerationFailed.
    """
    for ids in texts:
        engine.check_ids(ids)
    layers = empty_layers(engine.model, engine.mlx_lm, CacheOptions())
    # Only attention can be trusted not to look at what comes behind a text.
    groups = [list(texts)] if all(map(appends, layers)) else [[ids] for ids in texts]
    with translated("the model failed while reading a text", errors.GenerationFailed):
        return [vector for group in groups for vector in _vectors(engine, group)]


def _vectors(engine: Engine, texts: Sequence[Sequence[int]]) -> list[tuple[float, ...]]:
    body = getattr(engine.model, "model", None)
    if not callable(body):
        raise errors.IncompatibleModel("this architecture does not say what it makes of a text before its head")
    width = max(map(len, texts))
    hidden = body(mx.array([[*ids, *([0] * (width - len(ids)))] for ids in texts]))
    if not isinstance(hidden, mx.array) or hidden.ndim != 3:
        raise errors.IncompatibleModel("this architecture has no hidden states that are vectors")
    last = hidden[mx.arange(len(texts)), mx.array([len(ids) - 1 for ids in texts])].astype(mx.float32)
    vectors = last / mx.maximum(mx.linalg.norm(last, axis=-1, keepdims=True), 1e-12)
    return [tuple(vector) for vector in vectors.tolist()]
