"""Model folders made on the spot in milliseconds, without MLX: random ones, and one whose answer is known in advance.

`tiny_model` writes a random two-layer model; `scripted_model` one that answers exactly a given text, then ends.
"""

from __future__ import annotations

import json
import random
import struct
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Union

BOS, EOS, TURN_END = "<|bos|>", "<|eos|>", "<|im_end|>"
SPECIALS = (BOS, EOS, TURN_END, "<|im_start|>")

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

Piece = Union[str, bytes]


@dataclass(frozen=True)
class TinyOptions:
    """What can be varied. `eos_*` are token texts (tokenizer) or ids (config files); None leaves the entry out."""

    model_type: str = "llama"
    seed: int = 0
    context_length: int = 256
    chat_template: str | None = CHATML
    spm: bool = False
    add_bos: bool = False
    eos_in_tokenizer: str | None = EOS
    eos_in_config: int | list[int] | None = None
    eos_in_generation_config: int | list[int] | None = None
    config: dict[str, Any] = field(default_factory=dict)
    tokenizer_config: dict[str, Any] = field(default_factory=dict)


def tiny_model(path: Path, options: TinyOptions = TinyOptions()) -> Path:
    """Write a random two-layer model (llama, mistral, qwen2, qwen3 or gemma) into `path` and return it."""
    vocab = _write_tokenizer(path, options, ())
    shape = _Shape(vocab=len(vocab), hidden=32, layers=2)
    _write_config(path, options, shape)
    draw = random.Random(options.seed)

    def noise(count: int) -> array[float]:
        return array("f", (draw.gauss(0.0, 0.3) for _ in range(count)))

    tensors = {
        "model.embed_tokens.weight": ((shape.vocab, shape.hidden), noise(shape.vocab * shape.hidden)),
        "model.norm.weight": ((shape.hidden,), _filled(shape.hidden, 1.0)),
    }
    if options.model_type != "gemma":
        tensors["lm_head.weight"] = ((shape.vocab, shape.hidden), noise(shape.vocab * shape.hidden))
    for name, size in _layer_tensors(options.model_type, shape):
        tensors[name] = (size, noise(_count(size)) if len(size) == 2 else _filled(_count(size), 1.0))
    write_safetensors(path / "model.safetensors", tensors)
    return path


def scripted_model(
    path: Path,
    text: str = "",
    options: TinyOptions = TinyOptions(),
    *,
    pieces: Sequence[Piece] | None = None,
    repeat: bool = False,
) -> Path:
    """Write a model that answers any prompt with `text` and then EOS, whatever the sampling.

    Its weights make the next token a function of the current one, so each piece of the text is a token of its own.
    `pieces` sets them (all different; bytes may split characters), else the text is cut into different ones.
    With `repeat` the first piece follows the last one and no EOS ever comes.
    """
    script = [_as_bytes(piece) for piece in (pieces if pieces is not None else distinct_pieces(text))]
    assert len(set(script)) == len(script), "each piece of a script must be different"
    vocab = _write_tokenizer(path, options, script)
    ids = [vocab[_token_text(piece, options.spm)] for piece in script]
    _write_script(path, options, vocab, ids, repeat)
    return path


def distinct_pieces(text: str, shortest: int = 4) -> list[str]:
    """Cut `text` into pieces of which no two are equal, long enough that no prompt ends in one of them."""
    pieces: list[str] = []
    start = 0
    while start < len(text):
        end = start + shortest
        while text[start:end] in pieces and end < len(text):
            end += 1
        piece = text[start:end]
        while piece in pieces:
            piece = pieces.pop() + piece
        pieces.append(piece)
        start = end
    return pieces


def write_safetensors(path: Path, tensors: dict[str, tuple[tuple[int, ...], array[float]]]) -> None:
    """Write float32 tensors in the safetensors format, marked as MLX's."""
    header: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    offset = 0
    for name, (shape, values) in tensors.items():
        size = len(values) * 4
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    data = b"".join(values.tobytes() for _, values in tensors.values())
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@dataclass(frozen=True)
class _Shape:
    vocab: int
    hidden: int
    layers: int
    heads: int = 4
    kv_heads: int = 2

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads


def _write_script(path: Path, options: TinyOptions, vocab: dict[str, int], ids: list[int], repeat: bool) -> None:
    """One state per script position: the embedding says which state a token leads to, the head which token it says."""
    end = [] if repeat else [vocab["</s>" if options.spm else EOS]]
    said = ids + end
    hidden = -(-len(said) // 8) * 8
    shape = _Shape(vocab=len(vocab), hidden=hidden, layers=1)
    _write_config(path, options, shape)
    following = {token: position + 1 for position, token in enumerate(ids)}
    embed, head = array("f", bytes(4 * shape.vocab * hidden)), array("f", bytes(4 * shape.vocab * hidden))
    for token in range(shape.vocab):
        embed[token * hidden + following.get(token, 0) % len(said)] = 1.0
    for position, token in enumerate(said):
        # Large enough that no temperature and no penalty finds another token.
        head[token * hidden + position] = 1000.0
    tensors = {
        "model.embed_tokens.weight": ((shape.vocab, hidden), embed),
        "model.norm.weight": ((hidden,), _filled(hidden, 1.0)),
        "lm_head.weight": ((shape.vocab, hidden), head),
    }
    for name, size in _layer_tensors(options.model_type, shape):
        tensors[name] = (size, _filled(_count(size), 0.0 if len(size) == 2 else 1.0))
    write_safetensors(path / "model.safetensors", tensors)


def _layer_tensors(model_type: str, shape: _Shape) -> Iterable[tuple[str, tuple[int, ...]]]:
    hidden, inner = shape.hidden, shape.hidden * 2
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    for layer in range(shape.layers):
        at = f"model.layers.{layer}."
        yield at + "self_attn.q_proj.weight", (queries, hidden)
        yield at + "self_attn.k_proj.weight", (keys, hidden)
        yield at + "self_attn.v_proj.weight", (keys, hidden)
        yield at + "self_attn.o_proj.weight", (hidden, queries)
        yield at + "mlp.gate_proj.weight", (inner, hidden)
        yield at + "mlp.up_proj.weight", (inner, hidden)
        yield at + "mlp.down_proj.weight", (hidden, inner)
        yield at + "input_layernorm.weight", (hidden,)
        yield at + "post_attention_layernorm.weight", (hidden,)
        if model_type == "qwen2":
            for name, size in (("q", queries), ("k", keys), ("v", keys)):
                yield f"{at}self_attn.{name}_proj.bias", (size,)
        if model_type == "qwen3":
            yield at + "self_attn.q_norm.weight", (shape.head_dim,)
            yield at + "self_attn.k_norm.weight", (shape.head_dim,)


def _write_config(path: Path, options: TinyOptions, shape: _Shape) -> None:
    config: dict[str, Any] = {
        "model_type": options.model_type,
        "architectures": [f"{options.model_type.capitalize()}ForCausalLM"],
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "intermediate_size": shape.hidden * 2,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "rms_norm_eps": 1e-5,
        "vocab_size": shape.vocab,
        "max_position_embeddings": options.context_length,
        "rope_theta": 10000.0,
        "tie_word_embeddings": options.model_type == "gemma",
        "torch_dtype": "float32",
    }
    if options.eos_in_config is not None:
        config["eos_token_id"] = options.eos_in_config
    config.update(options.config)
    _write_json(path / "config.json", config)
    if options.eos_in_generation_config is not None:
        _write_json(path / "generation_config.json", {"eos_token_id": options.eos_in_generation_config})


def _write_tokenizer(path: Path, options: TinyOptions, script: Sequence[bytes]) -> dict[str, int]:
    """Write tokenizer.json and tokenizer_config.json; return the vocabulary."""
    path.mkdir(parents=True, exist_ok=True)
    document = _spm_tokenizer(script) if options.spm else _byte_level_tokenizer(script, options.add_bos)
    _write_json(path / "tokenizer.json", document)
    specials = {"bos_token": BOS, "eos_token": options.eos_in_tokenizer}
    if options.spm:
        specials = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **{name: text for name, text in specials.items() if text is not None},
    }
    if options.chat_template is not None:
        config["chat_template"] = options.chat_template
    config.update(options.tokenizer_config)
    _write_json(path / "tokenizer_config.json", config)
    vocab: dict[str, int] = dict(document["model"]["vocab"])
    vocab.update({token["content"]: token["id"] for token in document["added_tokens"]})
    return vocab


def _byte_level_tokenizer(script: Sequence[bytes], add_bos: bool) -> dict[str, Any]:
    """Each byte is a token, as in GPT-2's alphabet; a few merges; the pieces of the script behind them."""
    alphabet = byte_alphabet()
    tokens = [*SPECIALS, *alphabet.values()]
    merges = [("t", "h"), ("th", "e"), ("i", "n"), ("Ġ", "the"), ("a", "n"), ("an", "d")]
    tokens += [left + right for left, right in merges]
    tokens += [text for text in (_token_text(piece, False) for piece in script) if text not in tokens]
    vocab = {token: number for number, token in enumerate(tokens)}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    start = [{"SpecialToken": {"id": BOS, "type_id": 0}}] if add_bos else []
    template = {
        "type": "TemplateProcessing",
        "single": [*start, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [*start, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {BOS: {"id": BOS, "ids": [vocab[BOS]], "tokens": [BOS]}},
    }
    return _tokenizer_document(
        added=[_added(token, vocab[token]) for token in SPECIALS],
        normalizer=None,
        pre_tokenizer=byte_level,
        post_processor=template if add_bos else byte_level,
        decoder=byte_level,
        model=_bpe(vocab, merges),
    )


def _spm_tokenizer(script: Sequence[bytes]) -> dict[str, Any]:
    """The sentencepiece kind: a sign for the space, bytes as a fallback for unknown characters."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    tokens += [chr(code) for code in range(33, 127)] + ["▁t", "he", "▁the"]
    tokens += [text for text in (_token_text(piece, True) for piece in script) if text not in tokens]
    vocab = {token: number for number, token in enumerate(tokens)}
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he")]
    model = {**_bpe(vocab, merges), "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}
    prepend = {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    ]}  # fmt: skip
    decoder = {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]}  # fmt: skip
    added = [_added(token, vocab[token]) for token in ("<unk>", "<s>", "</s>")]
    return _tokenizer_document(
        added=added, normalizer=prepend, pre_tokenizer=None, post_processor=None, decoder=decoder, model=model
    )


def _tokenizer_document(*, added: list[dict[str, Any]], **parts: Any) -> dict[str, Any]:
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, **parts}


def _bpe(vocab: dict[str, int], merges: list[tuple[str, str]]) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": vocab,
        "merges": [f"{left} {right}" for left, right in merges],
    }


def _added(token: str, number: int) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": number, "content": token, **flags}


def byte_alphabet() -> dict[int, str]:
    """The printable stand-in for each byte that byte-level tokenizers use."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {byte: chr(byte) for byte in plain}
    for byte in range(256):
        if byte not in table:
            table[byte] = chr(256 + len(table) - len(plain))
    return table


def _token_text(piece: bytes, spm: bool) -> str:
    if spm:
        if len(piece) == 1 and piece[0] > 126:
            return f"<0x{piece[0]:02X}>"
        return piece.decode().replace(" ", "▁")
    special = piece.decode(errors="replace")
    if special in SPECIALS:
        return special
    alphabet = byte_alphabet()
    return "".join(alphabet[byte] for byte in piece)


def _as_bytes(piece: Piece) -> bytes:
    return piece.encode() if isinstance(piece, str) else piece


def _filled(count: int, value: float) -> array[float]:
    return array("f", [value]) * count


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
