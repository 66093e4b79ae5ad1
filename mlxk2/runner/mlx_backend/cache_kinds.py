"""Empty KV caches as the user wants them, only where the model's own cache honours the wish."""

from __future__ import annotations

from typing import Any

from mlxk2 import errors
from mlxk2.runner.request import CacheOptions

from .library import MlxLm

# MLX quantizes in groups of these sizes along the head; the largest that divides it is used.
_GROUP_SIZES = (64, 32)


def empty_layers(model: Any, mlx_lm: MlxLm, options: CacheOptions) -> list[Any]:
    """Return one empty cache a layer.

    Raises: IncompatibleModel naming the option that this architecture's cache ignores.
    """
    layers: list[Any] = _plain_layers(model, mlx_lm, options.max_kv_size)
    if options.kv_bits is None:
        return layers
    kinds = {type(layer).__name__ for layer in layers}
    if kinds != {"KVCache"}:
        raise _not_honoured("--kv-bits", f"its layers keep {', '.join(sorted(kinds))}, which mlx-lm does not quantize")
    quantized = mlx_lm.caches.QuantizedKVCache
    return [quantized(group_size=_group_size(model), bits=options.kv_bits) for _ in layers]


def _plain_layers(model: Any, mlx_lm: MlxLm, max_kv_size: int | None) -> list[Any]:
    if max_kv_size is None:
        return list(mlx_lm.caches.make_prompt_cache(model))
    if hasattr(model, "make_cache"):
        raise _not_honoured("--max-kv-size", "mlx-lm ignores the size for architectures that make their own cache")
    return list(mlx_lm.caches.make_prompt_cache(model, max_kv_size=max_kv_size))


def _group_size(model: Any) -> int:
    dimension = _head_dim(model)
    found = next((size for size in _GROUP_SIZES if dimension is None or dimension % size == 0), None)
    if found is None:
        raise _not_honoured("--kv-bits", f"its heads have {dimension} dimensions, which no group size divides")
    return found


def _head_dim(model: Any) -> int | None:
    """The size of one head, from the model's arguments; None where they do not tell."""
    args = getattr(model, "args", None)
    given = getattr(args, "head_dim", None)
    if isinstance(given, int):
        return given
    width, heads = getattr(args, "hidden_size", None), getattr(args, "num_attention_heads", None)
    return width // heads if isinstance(width, int) and isinstance(heads, int) and heads > 0 else None


def _not_honoured(flag: str, why: str) -> errors.IncompatibleModel:
    return errors.IncompatibleModel(f"{flag} has no effect on this model: {why}", hint=f"run it without {flag}")
