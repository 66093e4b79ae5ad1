"""Tiny GGUF files written byte by byte, sound ones and broken ones, with the numbers that a right reader must find.

Independent of the code under test: layout from ggml/docs/gguf.md, blocks from ggml-quants.c, row order from llama.cpp's
`permute`. Knows no MLX.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.tiny_model import CHATML, byte_alphabet

TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q8_0": 8, "Q4_K": 12, "Q6_K": 14, "BF16": 30}
BLOCK_BYTES = {"Q5_0": (32, 22), "Q4_K": (256, 144), "Q6_K": (256, 210), "BF16": (1, 2)}
BPE_SPECIALS = ("<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>")
BPE_MERGES = (("t", "h"), ("th", "e"), ("i", "n"), ("Ġ", "the"), ("a", "n"), ("an", "d"))


@dataclass(frozen=True)
class U32:
    """A metadata value of this type; plain ints are written as u32 as well."""

    value: int


@dataclass(frozen=True)
class Tensor:
    """Raw bytes under a name. `shape`: rows first."""

    name: str
    shape: tuple[int, ...]
    kind: str
    data: bytes


@dataclass(frozen=True)
class TinyGguf:
    """What can be varied. `kinds` overrides the type of single tensors by their GGUF name."""

    architecture: str = "llama"
    kind: str = "F32"
    tokenizer: str = "gpt2"
    pre: str | None = "gpt-2"
    tied: bool = False
    biased: bool = False
    layers: int = 2
    hidden: int = 64
    inner: int = 96
    heads: int = 4
    kv_heads: int = 2
    seed: int = 0
    kinds: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads


def tiny_gguf(path: Path, options: TinyGguf = TinyGguf()) -> Path:
    """Write a random model of the llama family and return its path."""
    path.write_bytes(tiny_gguf_bytes(options))
    return path


def tiny_gguf_bytes(options: TinyGguf = TinyGguf()) -> bytes:
    """Make the file's bytes."""
    return gguf_bytes(metadata_of(options), tensors_of(options))


def gguf_bytes(metadata: dict[str, Any], tensors: Sequence[Tensor], *, version: int = 3, alignment: int = 32) -> bytes:
    """Lay out a GGUF file."""
    out = bytearray(b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata)))
    for key, value in metadata.items():
        out += _text(key) + _value(value)
    offset, data = 0, bytearray()
    for tensor in tensors:
        out += _text(tensor.name) + struct.pack("<I", len(tensor.shape))
        out += b"".join(struct.pack("<Q", size) for size in reversed(tensor.shape))
        out += struct.pack("<IQ", TYPES[tensor.kind], offset)
        padded = tensor.data + bytes(-len(tensor.data) % alignment)
        data += padded
        offset += len(padded)
    return bytes(out + bytes(-len(out) % alignment) + data)


def reference(options: TinyGguf) -> dict[str, tuple[tuple[int, ...], list[float]]]:
    """The model's weights as a Hugging Face folder holds them, after the loss of the chosen types: name -> shape, values."""
    found = {}
    for gguf_name, name, shape, heads, values in _weights(options):
        kind = _kind_of(options, gguf_name, shape)
        rows = _permuted(values, shape, heads)
        found[name] = (shape, _unpermuted(decode(encode(rows, kind), kind), shape, heads))
    return found


def tensors_of(options: TinyGguf) -> list[Tensor]:
    """The tensors as the file holds them."""
    return [
        Tensor(gguf_name, shape, kind, encode(_permuted(values, shape, heads), kind))
        for gguf_name, _, shape, heads, values in _weights(options)
        for kind in (_kind_of(options, gguf_name, shape),)
        if gguf_name not in options.without
    ]


def metadata_of(options: TinyGguf) -> dict[str, Any]:
    """The metadata as the file holds them."""
    arch = options.architecture
    found: dict[str, Any] = {
        "general.architecture": arch,
        "general.name": "Tiny of the test kit",
        "general.license": "apache-2.0",
        f"{arch}.block_count": options.layers,
        f"{arch}.context_length": 256,
        f"{arch}.embedding_length": options.hidden,
        f"{arch}.feed_forward_length": options.inner,
        f"{arch}.attention.head_count": options.heads,
        f"{arch}.attention.head_count_kv": options.kv_heads,
        f"{arch}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{arch}.rope.freq_base": 10000.0,
        "tokenizer.chat_template": CHATML,
        **vocabulary(options),
        **options.metadata,
    }
    return {key: value for key, value in found.items() if value is not None}


def vocabulary(options: TinyGguf) -> dict[str, Any]:
    """The tokenizer's part of the metadata."""
    return _spm_vocabulary() if options.tokenizer == "llama" else _bpe_vocabulary(options.pre)


def encode(values: Sequence[float], kind: str) -> bytes:
    """Write numbers in a type of ggml; the quantized ones round as its reference code does."""
    if kind in ("F32", "F16"):
        return struct.pack(f"<{len(values)}{'f' if kind == 'F32' else 'e'}", *values)
    if kind in BLOCK_BYTES:
        block, size = BLOCK_BYTES[kind]
        return bytes(len(values) // block * size)
    blocks = [values[at : at + 32] for at in range(0, len(values), 32)]
    return b"".join({"Q4_0": _q4_0, "Q4_1": _q4_1, "Q8_0": _q8_0}[kind](block) for block in blocks)


def decode(data: bytes, kind: str) -> list[float]:
    """Read numbers back, one block after the other."""
    if kind == "F32":
        return [value for (value,) in struct.iter_unpack("<f", data)]
    if kind == "F16":
        return [value for (value,) in struct.iter_unpack("<e", data)]
    size = {"Q4_0": 18, "Q4_1": 20, "Q8_0": 34}[kind]
    found: list[float] = []
    for at in range(0, len(data), size):
        found += _decoded_block(data[at : at + size], kind)
    return [struct.unpack("<f", struct.pack("<f", value))[0] for value in found]


def _decoded_block(block: bytes, kind: str) -> list[float]:
    scale = struct.unpack_from("<e", block)[0]
    if kind == "Q8_0":
        return [scale * level for level in struct.unpack_from("<32b", block, 2)]
    low = struct.unpack_from("<e", block, 2)[0] if kind == "Q4_1" else -8 * scale
    packed = block[4:] if kind == "Q4_1" else block[2:]
    # The low halves of the bytes come first, then the high ones.
    levels = [byte & 15 for byte in packed] + [byte >> 4 for byte in packed]
    return [scale * level + low for level in levels]


def _q4_0(values: Sequence[float]) -> bytes:
    largest = max(values, key=abs)
    scale = largest / -8
    return struct.pack("<e", scale) + _nibbles([_level(value, scale, 8.5, 15) for value in values])


def _q4_1(values: Sequence[float]) -> bytes:
    low, high = min(values), max(values)
    scale = (high - low) / 15
    return struct.pack("<ee", scale, low) + _nibbles([_level(value - low, scale, 0.5, 15) for value in values])


def _q8_0(values: Sequence[float]) -> bytes:
    scale = max(abs(value) for value in values) / 127
    return struct.pack("<e32b", scale, *(round(value / scale) if scale else 0 for value in values))


def _level(value: float, scale: float, middle: float, top: int) -> int:
    return max(0, min(top, int(value / scale + middle))) if scale else 0


def _nibbles(levels: Sequence[int]) -> bytes:
    return bytes(low | high << 4 for low, high in zip(levels[:16], levels[16:]))


def _weights(options: TinyGguf) -> list[tuple[str, str, tuple[int, ...], int | None, list[float]]]:
    """GGUF name, folder name, shape, heads whose rows GGUF interleaves, values in the folder's order."""
    draw = random.Random(options.seed)
    found = []
    for gguf_name, name, shape, heads in _places(options):
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        is_norm = "norm" in gguf_name
        values = [1.0 + draw.gauss(0, 0.1) if is_norm else draw.gauss(0, 0.3) for _ in range(count)]
        single = [struct.unpack("<f", struct.pack("<f", value))[0] for value in values]
        found.append((gguf_name, name, shape, None if options.architecture == "qwen2" else heads, single))
    return found


def _places(options: TinyGguf) -> list[tuple[str, str, tuple[int, ...], int | None]]:
    hidden, inner, kv_rows = options.hidden, options.inner, options.kv_heads * options.head_dim
    tokens = options.metadata.get("tokenizer.ggml.tokens") or vocabulary(options)["tokenizer.ggml.tokens"]
    vocab = len(tokens)
    places: list[tuple[str, str, tuple[int, ...], int | None]] = [
        ("token_embd.weight", "model.embed_tokens.weight", (vocab, hidden), None),
        ("output_norm.weight", "model.norm.weight", (hidden,), None),
    ]
    if not options.tied:
        places.append(("output.weight", "lm_head.weight", (vocab, hidden), None))
    for layer in range(options.layers):
        of, at = f"blk.{layer}.", f"model.layers.{layer}."
        parts: list[tuple[str, str, tuple[int, ...], int | None]] = [
            ("attn_norm.weight", "input_layernorm.weight", (hidden,), None),
            ("ffn_norm.weight", "post_attention_layernorm.weight", (hidden,), None),
            ("attn_q.weight", "self_attn.q_proj.weight", (hidden, hidden), options.heads),
            ("attn_k.weight", "self_attn.k_proj.weight", (kv_rows, hidden), options.kv_heads),
            ("attn_v.weight", "self_attn.v_proj.weight", (kv_rows, hidden), None),
            ("attn_output.weight", "self_attn.o_proj.weight", (hidden, hidden), None),
            ("ffn_gate.weight", "mlp.gate_proj.weight", (inner, hidden), None),
            ("ffn_up.weight", "mlp.up_proj.weight", (inner, hidden), None),
            ("ffn_down.weight", "mlp.down_proj.weight", (hidden, inner), None),
        ]
        if options.architecture == "qwen2" or options.biased:
            parts += [
                ("attn_q.bias", "self_attn.q_proj.bias", (hidden,), options.heads),
                ("attn_k.bias", "self_attn.k_proj.bias", (kv_rows,), options.kv_heads),
                ("attn_v.bias", "self_attn.v_proj.bias", (kv_rows,), None),
            ]
        if options.biased:
            parts.append(("attn_output.bias", "self_attn.o_proj.bias", (hidden,), None))
        places += [(of + gguf_name, at + name, shape, heads) for gguf_name, name, shape, heads in parts]
    return places


def _kind_of(options: TinyGguf, gguf_name: str, shape: tuple[int, ...]) -> str:
    """Vectors stay F32 in every real file."""
    return options.kinds.get(gguf_name, options.kind if len(shape) == 2 else "F32")


def _permuted(values: list[float], shape: tuple[int, ...], heads: int | None) -> list[float]:
    """Interleave the two halves of each head's rows: 0, d/2, 1, d/2 + 1, …"""
    return values if heads is None else _reordered(values, shape, _interleaved(shape[0], heads))


def _unpermuted(values: list[float], shape: tuple[int, ...], heads: int | None) -> list[float]:
    if heads is None:
        return values
    order = _interleaved(shape[0], heads)
    return _reordered(values, shape, [order.index(row) for row in range(shape[0])])


def _interleaved(rows: int, heads: int) -> list[int]:
    size = rows // heads
    return [
        head * size + half * (size // 2) + pair for head in range(heads) for pair in range(size // 2) for half in (0, 1)
    ]


def _reordered(values: list[float], shape: tuple[int, ...], order: Sequence[int]) -> list[float]:
    width = shape[1] if len(shape) > 1 else 1
    return [value for row in order for value in values[row * width : (row + 1) * width]]


def _bpe_vocabulary(pre: str | None) -> dict[str, Any]:
    alphabet = byte_alphabet()
    stand_ins = [alphabet[byte] for byte in range(256)]
    tokens = [*BPE_SPECIALS, *stand_ins, *(left + right for left, right in BPE_MERGES)]
    found: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] * len(BPE_SPECIALS) + [1] * (len(tokens) - len(BPE_SPECIALS)),
        "tokenizer.ggml.merges": [f"{left} {right}" for left, right in BPE_MERGES],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
    }
    return found if pre is None else {**found, "tokenizer.ggml.pre": pre}


def _spm_vocabulary() -> dict[str, Any]:
    pieces = [("▁the", -1.0), ("▁t", -2.0), ("he", -3.0), ("an", -4.0), ("and", -5.0), ("▁and", -6.0)]
    single = [("▁", -7.0), *((chr(code), -8.0 - code) for code in range(33, 127))]
    tokens = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        *(text for text, _ in pieces + single),
    ]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * 259 + [score for _, score in pieces + single],
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * len(pieces + single),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value: Any) -> bytes:
    if isinstance(value, (list, tuple)):
        kind, pack = _kind(value[0] if value else 0)
        return struct.pack("<IIQ", 9, kind, len(value)) + b"".join(pack(item) for item in value)
    kind, pack = _kind(value)
    return struct.pack("<I", kind) + pack(value)


def _kind(value: Any) -> tuple[int, Any]:
    if isinstance(value, bool):
        return 7, lambda item: struct.pack("<?", item)
    if isinstance(value, U32):
        return 4, lambda item: struct.pack("<I", item.value)
    if isinstance(value, int):
        # Token types are signed, everything else small enough for both.
        return 5, lambda item: struct.pack("<i", item)
    if isinstance(value, float):
        return 6, lambda item: struct.pack("<f", item)
    return 8, _text
