"""Which GGUF tensor becomes which MLX weight, in which form: names, RoPE order, bits. Plans only; reads no data.

Source: llama.cpp's gguf-py tensor_mapping.py (names) and convert_hf_to_gguf.py (`permute`, which is undone here).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlxk2.convert.change import DTYPE_BYTES
from mlxk2.convert.gguf_config import ROPE_FACTORS
from mlxk2.errors import InvalidSource, UnsupportedFormat
from mlxk2.inspection.gguf import GgufFile, GgufTensor

GROUP_SIZE = 32
BITS = {"Q4_0": 4, "Q4_1": 4, "Q8_0": 8}
FLOAT_TYPES = ("F32", "F16")
# Rotary frequencies and masks that older exporters wrote; MLX computes them itself.
_NOT_NEEDED = (ROPE_FACTORS,)


@dataclass(frozen=True)
class Weight:
    """One weight to write. `heads`: rows come interleaved per head and are put back in order; `bits`: stays quantized."""

    source: GgufTensor
    module: str
    heads: int | None
    bits: int | None

    @property
    def arrays(self) -> tuple[str, ...]:
        """The names of the arrays it is written as."""
        if self.bits:
            return tuple(f"{self.module}.{part}" for part in ("weight", "scales", "biases"))
        return (f"{self.module}.{self.source.name.rsplit('.', 1)[-1]}",)

    def size_bytes(self, dtype: str) -> int:
        """Tell how many bytes the weight takes when written."""
        elements, width = self.source.elements, DTYPE_BYTES[dtype]
        if self.bits is None:
            return elements * width
        return elements * self.bits // 8 + 2 * (elements // GROUP_SIZE) * width


@dataclass(frozen=True)
class _Slot:
    """Where a tensor goes and the shape it must have."""

    target: str
    shape: tuple[int, ...]
    heads: int | None = None


def plan_weights(gguf: GgufFile, config: dict[str, Any], *, dequantize: bool) -> tuple[Weight, ...]:
    """Pair every tensor with its place in the model.

    Raises: UnsupportedFormat for types and tensors that cannot be taken over; InvalidSource for missing ones and wrong shapes.
    """
    slots = _slots(config)
    tensors = {tensor.name: tensor for tensor in gguf.tensors if tensor.name not in _NOT_NEEDED}
    missing = sorted(slots.keys() - tensors.keys())
    if missing:
        raise InvalidSource(f"{gguf.path.name} lacks {_some(missing)}", hint="download or export the file again")
    unknown = sorted(tensors.keys() - slots.keys())
    if unknown:
        raise UnsupportedFormat(f"{gguf.path.name} holds tensors that {config['model_type']} has not: {_some(unknown)}")
    _refuse_types(gguf.path.name, tuple(tensors.values()))
    for name, slot in slots.items():
        if tensors[name].shape != slot.shape:
            raise InvalidSource(
                f"{gguf.path.name}: tensor '{name}' has the shape {tensors[name].shape}, the metadata say {slot.shape}"
            )
    return tuple(_weight(tensors[name], slot, dequantize) for name, slot in slots.items())


def quantization(weights: tuple[Weight, ...]) -> dict[str, Any] | None:
    """Describe the quantized weights as config.json does: the commonest form, then what differs. None without any."""
    sizes: dict[int, int] = {}
    for weight in weights:
        if weight.bits:
            sizes[weight.bits] = sizes.get(weight.bits, 0) + weight.source.elements
    if not sizes:
        return None
    bits = _of_the_layers(weights) or max(sizes, key=lambda key: sizes[key])
    described: dict[str, Any] = {"group_size": GROUP_SIZE, "bits": bits, "mode": "affine"}
    for weight in weights:
        if weight.bits and weight.bits != bits:
            described[weight.module] = {"group_size": GROUP_SIZE, "bits": weight.bits}
    return described


def source_dtype(weights: tuple[Weight, ...]) -> str:
    """Tell the float type that fits the source: float32 only where its matrices are stored so."""
    matrices = [w.source for w in weights if len(w.source.shape) > 1]
    return "float32" if all(tensor.type == "F32" for tensor in matrices) else "float16"


def _of_the_layers(weights: tuple[Weight, ...]) -> int | None:
    counts: dict[int, int] = {}
    for weight in weights:
        if weight.bits and ".layers." in weight.module:
            counts[weight.bits] = counts.get(weight.bits, 0) + 1
    return max(counts, key=lambda key: counts[key]) if counts else None


def _weight(tensor: GgufTensor, slot: _Slot, dequantize: bool) -> Weight:
    bits = None if dequantize else BITS.get(tensor.type)
    return Weight(tensor, slot.target, slot.heads, bits)


def _refuse_types(file_name: str, tensors: tuple[GgufTensor, ...]) -> None:
    refused: dict[str, list[str]] = {}
    for tensor in tensors:
        is_vector = len(tensor.shape) == 1
        if tensor.type not in FLOAT_TYPES and (tensor.type not in BITS or is_vector):
            refused.setdefault(tensor.type, []).append(tensor.name)
    if refused:
        kinds = "; ".join(f"{kind} ({_some(sorted(names))})" for kind, names in sorted(refused.items()))
        raise UnsupportedFormat(
            f"{file_name} holds tensors of types that MLX cannot take over: {kinds}",
            hint="take the model's Q4_0, Q4_1, Q8_0 or F16 file, or: llama-quantize --pure --allow-requantize IN OUT Q8_0",
        )


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _slots(config: dict[str, Any]) -> dict[str, _Slot]:
    hidden, vocab = config["hidden_size"], config["vocab_size"]
    slots = {
        "token_embd.weight": _Slot("model.embed_tokens", (vocab, hidden)),
        "output_norm.weight": _Slot("model.norm", (hidden,)),
    }
    if not config["tie_word_embeddings"]:
        slots["output.weight"] = _Slot("lm_head", (vocab, hidden))
    for layer in range(config["num_hidden_layers"]):
        for name, slot in _layer_slots(config).items():
            slots[f"blk.{layer}.{name}"] = _Slot(f"model.layers.{layer}.{slot.target}", slot.shape, slot.heads)
    return slots


def _layer_slots(config: dict[str, Any]) -> dict[str, _Slot]:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    q_rows, kv_rows = heads * config["head_dim"], kv_heads * config["head_dim"]
    # qwen2 files keep the rows as they are; the others interleave the halves of each head.
    is_permuted = config["model_type"] != "qwen2"
    slots = {
        "attn_norm.weight": _Slot("input_layernorm", (hidden,)),
        "ffn_norm.weight": _Slot("post_attention_layernorm", (hidden,)),
        "attn_q.weight": _Slot("self_attn.q_proj", (q_rows, hidden), heads if is_permuted else None),
        "attn_k.weight": _Slot("self_attn.k_proj", (kv_rows, hidden), kv_heads if is_permuted else None),
        "attn_v.weight": _Slot("self_attn.v_proj", (kv_rows, hidden)),
        "attn_output.weight": _Slot("self_attn.o_proj", (hidden, q_rows)),
        "ffn_gate.weight": _Slot("mlp.gate_proj", (inner, hidden)),
        "ffn_up.weight": _Slot("mlp.up_proj", (inner, hidden)),
        "ffn_down.weight": _Slot("mlp.down_proj", (hidden, inner)),
    }
    for name in _biased(config):
        weight = slots[f"{name}.weight"]
        slots[f"{name}.bias"] = _Slot(weight.target, weight.shape[:1], weight.heads)
    return slots


def _biased(config: dict[str, Any]) -> tuple[str, ...]:
    if config["model_type"] == "qwen2":
        return ("attn_q", "attn_k", "attn_v")
    attention = ("attn_q", "attn_k", "attn_v", "attn_output") if config["attention_bias"] else ()
    return attention + (("ffn_gate", "ffn_up", "ffn_down") if config["mlp_bias"] else ())
