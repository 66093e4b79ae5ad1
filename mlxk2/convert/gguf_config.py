"""GGUF metadata -> config.json, for the llama family. Knows shapes and numbers; no tokenizer, no tensor data.

Source: ggml/docs/gguf.md (keys), transformers' LlamaConfig, MistralConfig and Qwen2Config (names in config.json).
"""

from __future__ import annotations

import math
import struct
from typing import Any

from mlxk2.convert.gguf_metadata import Metadata
from mlxk2.errors import InvalidSource, UnsupportedFormat
from mlxk2.inspection.gguf import GgufFile, GgufTensor

ARCHITECTURES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM"}
ROPE_FACTORS = "rope_freqs.weight"
# Llama 3 stretches long wavelengths only; all its models share these three and differ in the factor.
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def build_config(gguf: GgufFile) -> dict[str, Any]:
    """Write the config of a llama, mistral or qwen2 GGUF; without its quantization.

    Raises: UnsupportedFormat for other architectures and features; InvalidSource for missing or absurd numbers.
    """
    meta = Metadata(gguf)
    kind = meta.architecture
    if kind not in ARCHITECTURES:
        raise UnsupportedFormat(
            f"{gguf.path.name} has the architecture '{kind}'", hint=f"convert knows {', '.join(ARCHITECTURES)}"
        )
    _refuse_features(meta)
    tensors = {tensor.name: tensor for tensor in gguf.tensors}
    hidden = meta.integer(".embedding_length")
    heads = meta.integer(".attention.head_count", most=65_536)
    head_dim = _head_dim(meta, hidden, heads)
    config: dict[str, Any] = {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": meta.integer(".feed_forward_length"),
        "num_hidden_layers": meta.integer(".block_count", most=4096),
        "num_attention_heads": heads,
        "num_key_value_heads": meta.integer(".attention.head_count_kv", heads, most=65_536),
        "head_dim": head_dim,
        "max_position_embeddings": meta.integer(".context_length"),
        "rms_norm_eps": meta.number(".attention.layer_norm_rms_epsilon"),
        "rope_theta": meta.number(".rope.freq_base", 10000.0),
        "rope_scaling": _rope_scaling(meta, gguf, tensors.get(ROPE_FACTORS), head_dim),
        "vocab_size": _vocab_size(gguf, tensors),
        "tie_word_embeddings": "output.weight" not in tensors,
    }
    if config["num_attention_heads"] % config["num_key_value_heads"]:
        raise meta.wrong(".attention.head_count_kv", f"does not divide {heads} heads")
    if kind != "qwen2":
        config["attention_bias"] = "blk.0.attn_q.bias" in tensors
        config["mlp_bias"] = "blk.0.ffn_down.bias" in tensors
    return config


def _refuse_features(meta: Metadata) -> None:
    if meta.integer("split.count", 1, least=0) > 1:
        raise UnsupportedFormat(
            f"{meta.file_name} is one part of a split GGUF", hint="join the parts first: llama-gguf-split --merge"
        )
    if meta.integer(".expert_count", 0, least=0) > 0:
        raise UnsupportedFormat(f"{meta.file_name} is a mixture of experts", hint="convert knows dense models only")
    context = meta.integer(".context_length")
    if 0 < meta.integer(".attention.sliding_window", 0, least=0) < context:
        raise UnsupportedFormat(
            f"{meta.file_name} uses sliding-window attention", hint="use the model's safetensors folder as source"
        )


def _head_dim(meta: Metadata, hidden: int, heads: int) -> int:
    head_dim: int = meta.integer(".attention.key_length", 0) or hidden // heads
    if meta.integer(".attention.value_length", head_dim) != head_dim:
        raise UnsupportedFormat(f"{meta.file_name} has keys and values of different length")
    if meta.integer(".rope.dimension_count", head_dim) != head_dim or head_dim % 2 or not head_dim:
        raise UnsupportedFormat(f"{meta.file_name} rotates only a part of each head")
    return head_dim


def _vocab_size(gguf: GgufFile, tensors: dict[str, GgufTensor]) -> int:
    if "token_embd.weight" not in tensors:
        raise InvalidSource(f"{gguf.path.name} has no tensor 'token_embd.weight'", hint="is it only a vocabulary?")
    return tensors["token_embd.weight"].shape[0]


def _rope_scaling(meta: Metadata, gguf: GgufFile, factors: GgufTensor | None, head_dim: int) -> dict[str, Any] | None:
    if factors is not None:
        return _llama3_scaling(gguf, factors, head_dim, meta.number(".rope.freq_base", 10000.0))
    linear = meta.number(".rope.scale_linear", None)
    kind = meta.text(".rope.scaling.type", "none" if linear is None else "linear")
    if kind == "none":
        return None
    factor = meta.number(".rope.scaling.factor", linear)
    if kind not in ("linear", "yarn") or factor is None:
        raise UnsupportedFormat(f"{meta.file_name} uses RoPE scaling of the kind '{kind}'", hint="linear and yarn work")
    scaling = {"type": kind, "rope_type": kind, "factor": factor}
    if kind == "yarn":
        scaling["original_max_position_embeddings"] = meta.integer(".rope.scaling.original_context_length")
    return scaling


def _llama3_scaling(gguf: GgufFile, tensor: GgufTensor, head_dim: int, theta: float) -> dict[str, Any]:
    """Find the Llama 3 rule behind the stored factors, and refuse factors that follow another rule."""
    if tensor.type != "F32" or tensor.elements != head_dim // 2:
        raise InvalidSource(f"{gguf.path.name}: tensor '{tensor.name}' should hold {head_dim // 2} F32 values")
    with open(gguf.path, "rb") as stream:
        stream.seek(tensor.offset)
        stored = struct.unpack(f"<{tensor.elements}f", stream.read(tensor.size_bytes))
    scaling = {"type": "llama3", "rope_type": "llama3", "factor": float(f"{max(stored):.7g}"), **_LLAMA3}
    expected = (_llama3_factor(theta ** (2 * i / head_dim), scaling) for i in range(head_dim // 2))
    if not all(math.isclose(a, b, rel_tol=1e-3) for a, b in zip(stored, expected)):
        raise UnsupportedFormat(f"{gguf.path.name} scales RoPE by a rule that is not Llama 3's ('{tensor.name}')")
    return scaling


def _llama3_factor(radians: float, scaling: dict[str, Any]) -> float:
    """Source: transformers' modeling_rope_utils, _compute_llama3_parameters."""
    wavelength = 2 * math.pi * radians
    low, high, original, factor = (
        scaling[key] for key in ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings", "factor")
    )
    if wavelength < original / high:
        return 1.0
    if wavelength > original / low:
        return float(factor)
    smooth = (original / wavelength - low) / (high - low)
    return float(1 / ((1 - smooth) / factor + smooth))
