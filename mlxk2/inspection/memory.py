"""What memory a model will need: weights exactly, from the headers; the KV cache from the config. Asks no machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from mlxk2.inspection.context import DEFAULT_CONTEXT_LENGTH, context_length
from mlxk2.inspection.files import ModelFiles
from mlxk2.inspection.weights import loaded_headers

# mlx-lm's caches grow by this many positions at a time.
KV_STEP = 256
RECOMMENDED_TOKENS = 8192
_MARGIN_BYTES = 128 * 2**20

# A quantized cache has a scale and a bias for so many numbers; the smaller of mlx's common sizes.
_KV_GROUP = 32

_BYTES = {"float32": 4, "float": 4, "float16": 2, "bfloat16": 2, "half": 2}
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_HEADS = ("num_attention_heads", "n_head", "n_heads")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads")
_WIDTHS = ("hidden_size", "n_embd", "d_model", "dim")
_WITHOUT_KV = ("linear", "mamba", "conv", "recurrent", "ssm")
_LARGEST = 2**40


class MemoryNeed(NamedTuple):
    """Units: bytes; None where it cannot be known.

    `recommended_bytes` = 1.1 * (weights + KV cache of min(context, 8192) tokens) + 128 MiB for everything else.
    """

    weights_bytes: int | None
    kv_bytes_per_token: int | None
    recommended_bytes: int | None


class _Attention(NamedTuple):
    """`layer_elements`: numbers that one layer keeps of one token, each `element_bytes` long; `window` limits sliding ones."""

    full_layers: int
    sliding_layers: int
    window: int
    layer_elements: int
    element_bytes: int

    def layer_bytes(self, bits: int | None = None) -> float:
        """Bytes that one layer keeps of one token, quantized to `bits`, with a scale and a bias a group."""
        if bits is None:
            return self.layer_elements * self.element_bytes
        return self.layer_elements * (bits / 8 + 2 * self.element_bytes / _KV_GROUP)


def memory_need(files: ModelFiles) -> MemoryNeed:
    """Compute what a model will need. Reads headers and config only."""
    headers = loaded_headers(files)
    weights = sum(header.data_bytes for header in headers.values()) if headers else None
    config = files.config or {}
    attention = _attention(config)
    per_token = None if attention is None else _per_token(attention)
    if weights is None:
        return MemoryNeed(None, per_token, None)
    tokens = min(context_length(config) or DEFAULT_CONTEXT_LENGTH, RECOMMENDED_TOKENS)
    total = weights + (kv_bytes(config, tokens) or 0)
    return MemoryNeed(weights, per_token, total + total // 10 + _MARGIN_BYTES)


def kv_bytes(config: Mapping[str, Any] | None, tokens: int, bits: int | None = None) -> int | None:
    """Compute the size of the KV cache for `tokens` positions, allocated in steps of 256; None where it is unknown.

    `bits`: of a quantized cache; None keeps the numbers as they are.

    Source: 2 * layers * kv_heads * head_dim * bytes a position; latent attention keeps its latent and rotary parts.
    """
    attention = _attention(config or {})
    if attention is None:
        return None
    positions = _stepped(tokens)
    sliding = min(positions, _stepped(attention.window)) if attention.window else positions
    kept = attention.full_layers * positions + attention.sliding_layers * sliding
    return int(attention.layer_bytes(bits) * kept)


def _per_token(attention: _Attention) -> int:
    return int(attention.layer_bytes()) * (attention.full_layers + attention.sliding_layers)


def _stepped(tokens: int) -> int:
    return -(-max(tokens, 0) // KV_STEP) * KV_STEP


def _attention(config: Mapping[str, Any]) -> _Attention | None:
    """Read the attention's shape from a config, `text_config` going before the top level."""
    nested = config.get("text_config")
    parts = (nested, config) if isinstance(nested, dict) else (config,)
    layers = _number(parts, _LAYERS)
    per_layer = _layer_elements(parts)
    if layers is None or per_layer is None:
        return None
    full, sliding = _layer_kinds(parts, layers)
    window = _number(parts, ("sliding_window",)) or 0
    return _Attention(full, sliding, window, per_layer, _element_bytes(parts))


def _layer_elements(parts: tuple[Mapping[str, Any], ...]) -> int | None:
    latent = _number(parts, ("kv_lora_rank",))
    if latent is not None:
        return latent + (_number(parts, ("qk_rope_head_dim",)) or 0)
    heads = _number(parts, _HEADS)
    kv_heads = heads if not _mentions(parts, _KV_HEADS) else _number(parts, _KV_HEADS)
    head_dim = _number(parts, ("head_dim",))
    width = _number(parts, _WIDTHS)
    if head_dim is None and heads is not None and width is not None:
        head_dim = width // heads
    return None if kv_heads is None or not head_dim else 2 * kv_heads * head_dim


def _layer_kinds(parts: tuple[Mapping[str, Any], ...], layers: int) -> tuple[int, int]:
    """Count the layers that keep every position and those that keep a window."""
    kinds = next((part["layer_types"] for part in parts if isinstance(part.get("layer_types"), list)), None)
    if not kinds or len(kinds) != layers or not all(isinstance(kind, str) for kind in kinds):
        return layers, 0
    keeping = [kind for kind in kinds if not any(word in kind for word in _WITHOUT_KV)]
    sliding = sum("sliding" in kind for kind in keeping)
    return len(keeping) - sliding, sliding


def _element_bytes(parts: tuple[Mapping[str, Any], ...]) -> int:
    for part in parts:
        for key in ("torch_dtype", "dtype"):
            name = part.get(key)
            if isinstance(name, str) and name in _BYTES:
                return _BYTES[name]
    return 2


def _mentions(parts: tuple[Mapping[str, Any], ...], keys: tuple[str, ...]) -> bool:
    return any(part.get(key) is not None for part in parts for key in keys)


def _number(parts: tuple[Mapping[str, Any], ...], keys: tuple[str, ...]) -> int | None:
    values = (part.get(key) for part in parts for key in keys)
    return next((value for value in values if type(value) is int and 0 < value < _LARGEST), None)
