"""The real SmolLM2-135M-Instruct, converted from its GGUF: same weights as MLX's own reader, right tokens, right answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.call import call
from support.greedy import greedy_ids
from support.smollm2 import smollm2, smollm2_gguf
from support.tiny_model import byte_alphabet
from tokenizers import Tokenizer

from mlxk2.inspection.gguf import read_gguf

pytestmark = [pytest.mark.mlx_real, pytest.mark.smollm2]
QUESTION = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
)


@pytest.mark.parametrize("form", ["f32", "4bit"])
def test_it_answers_paris_whether_quantized_or_not(form: str) -> None:
    folder = smollm2(form, any_blas=True)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = greedy_ids(folder, tokenizer.encode(QUESTION).ids, 8)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "The capital of France is Paris."
    assert ids[-1] == 2  # <|im_end|>


def test_weights_are_those_that_mlx_itself_reads() -> None:
    import mlx.core as mx

    if tuple(int(part) for part in mx.__version__.split(".")[:2]) < (0, 30):
        pytest.skip("mlx before 0.30 unpacks the 4-bit blocks of a GGUF in another order")
    own = mx.load(str(smollm2("4bit") / "model.safetensors"))
    theirs = mx.load(str(smollm2_gguf()))
    places = {
        "token_embd": "model.embed_tokens",
        "output_norm": "model.norm",
        "blk.7.attn_v": "model.layers.7.self_attn.v_proj",
        "blk.29.ffn_down": "model.layers.29.mlp.down_proj",
    }
    for gguf_name, name in places.items():
        parts = [part for part in ("weight", "scales", "biases") if f"{gguf_name}.{part}" in theirs]
        assert all(mx.array_equal(own[f"{name}.{part}"], theirs[f"{gguf_name}.{part}"]).item() for part in parts)
    # Row 2 of a head of 64 in the file is row 1 of the model, row 3 is row 33.
    query = own["model.layers.7.self_attn.q_proj.weight"], theirs["blk.7.attn_q.weight"]
    assert all(
        mx.array_equal(query[0][64 + to], query[1][64 + source]).item() for source, to in ((2, 1), (3, 33), (63, 63))
    )


def naive_bpe(piece: str, ranks: dict[tuple[str, str], int]) -> list[str]:
    """Join the pair of lowest rank, again and again."""
    alphabet = byte_alphabet()
    parts = [alphabet[byte] for byte in piece.encode()]
    while True:
        pairs = [(ranks.get(pair, 10**9), at) for at, pair in enumerate(zip(parts, parts[1:]))]
        rank, at = min(pairs, default=(10**9, 0))
        if rank == 10**9:
            return parts
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


def test_tokens_follow_from_the_merges_of_the_file() -> None:
    metadata: dict[str, Any] = read_gguf(smollm2_gguf()).metadata
    ranks = {tuple(line.split(" ")): rank for rank, line in enumerate(metadata["tokenizer.ggml.merges"])}
    pieces = [
        "What",
        " is",
        " the",
        " capital",
        " of",
        " France",
        "?",
        "\n",
        "Ünï",
        " naïve",
        " ",
        "2",
        "0",
        "2",
        "4",
        " 東京",
    ]
    expected = [token for piece in pieces for token in naive_bpe(piece, ranks)]  # type: ignore[arg-type]
    tokenizer = Tokenizer.from_file(str(smollm2("4bit") / "tokenizer.json"))
    assert tokenizer.encode("".join(pieces)).tokens == expected
    assert tokenizer.get_vocab_size() == 49_152
    assert tokenizer.encode("<|im_start|>user<|im_end|>").ids == [1, *tokenizer.encode("user").ids, 2]


def test_the_answer_states_what_was_made(tmp_path: Path) -> None:
    result = call("convert", str(smollm2_gguf()), str(tmp_path / "out"), "--json")
    assert result.code == 0
    wanted = {"source_format": "gguf", "architecture": "llama", "tensors": 694, "files": 7}
    assert {key: result.data[key] for key in wanted} == wanted
    assert result.data["quantization"] == {"bits": 4, "group_size": 32, "mode": "affine"}
