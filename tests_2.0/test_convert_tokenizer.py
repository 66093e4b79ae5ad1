"""Tokenizers made from GGUF vocabularies cut text as the originals do: SPM against sentencepiece itself, byte-level
BPE against the rules that each kind of `pre` stands for."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import pytest
from support.call import call
from support.gguf_builder import BPE_SPECIALS, TinyGguf, tiny_gguf
from support.tiny_model import byte_alphabet
from tokenizers import Tokenizer

pytestmark = pytest.mark.mlx_real

CORPUS = [
    "The quick brown fox jumps over the lazy dog.",
    "  indented text,   with   runs of spaces\tand a tab",
    "Ünïcödé — naïve café, 東京 and Москва; emoji 👩‍👩‍👧 are bytes",
    "x = f(1, 20, 300) + 4000 * y[50000]",
    "aaaaaaaa bbbb abababab the then there these",
]


def built(tmp_path: Path, options: TinyGguf) -> Tokenizer:
    source, target = tiny_gguf(tmp_path / "m.gguf", options), tmp_path / "out"
    result = call("convert", str(source), str(target), "--json")
    assert result.code == 0, result.stdout
    return Tokenizer.from_file(str(target / "tokenizer.json"))


def sentence_piece() -> Any:
    spm = pytest.importorskip("sentencepiece")
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 20),
        model_writer=model,
        vocab_size=420,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        character_coverage=0.98,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        user_defined_symbols=["<tool>"],
        minloglevel=2,
    )
    return spm.SentencePieceProcessor(model_proto=model.getvalue())


def spm_metadata(original: Any) -> dict[str, Any]:
    """The vocabulary as llama.cpp's converter writes it."""
    ids = range(original.get_piece_size())

    def kind(number: int) -> int:
        if original.is_unknown(number):
            return 2
        if original.is_control(number):
            return 3
        if original.is_byte(number):
            return 6
        return 4 if original.id_to_piece(number) == "<tool>" else 1

    return {
        "tokenizer.ggml.tokens": [original.id_to_piece(number) for number in ids],
        "tokenizer.ggml.scores": [float(original.get_score(number)) for number in ids],
        "tokenizer.ggml.token_type": [kind(number) for number in ids],
        "tokenizer.ggml.unknown_token_id": original.unk_id(),
        "tokenizer.ggml.bos_token_id": original.bos_id(),
        "tokenizer.ggml.eos_token_id": original.eos_id(),
    }


def test_spm_cuts_text_as_sentencepiece_does(tmp_path: Path) -> None:
    original = sentence_piece()
    tokenizer = built(tmp_path, TinyGguf(tokenizer="llama", metadata=spm_metadata(original)))
    draw = random.Random(0)
    letters = sorted(set("".join(CORPUS))) + ["ß", "☃", "𝔘", "\n"]
    texts = CORPUS + ["".join(draw.choices(letters, k=draw.randrange(1, 40))) for _ in range(300)]
    for text in texts:
        assert tokenizer.encode(text, add_special_tokens=False).ids == original.encode(text), text
    assert tokenizer.encode("the").ids == [original.bos_id(), *original.encode("the")]


def test_spm_gives_the_text_back(tmp_path: Path) -> None:
    tokenizer = built(tmp_path, TinyGguf(tokenizer="llama"))
    for text in CORPUS:
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=True) == text


def test_spm_without_the_space_in_front(tmp_path: Path) -> None:
    options = TinyGguf(
        tokenizer="llama", metadata={"tokenizer.ggml.add_space_prefix": False, "tokenizer.ggml.add_bos_token": False}
    )
    tokenizer = built(tmp_path, options)
    assert tokenizer.encode("he the").tokens == ["he", "▁the"]
    assert tokenizer.decode(tokenizer.encode(" x").ids) == " x"


PIECES = {
    "gpt-2": ["a", " 2024", " don", "'t", " X", "'", "LL", "  ", " end", "\n", "\n", "x"],
    "smollm": ["a", " ", "2", "0", "2", "4", " don", "'t", " X", "'", "LL", "  ", " end", "\n", "\n", "x"],
    "llama-bpe": ["a", " ", "202", "4", " don", "'t", " X", "'LL", "  ", " end", "\n\n", "x"],
    "qwen2": ["a", " ", "2", "0", "2", "4", " don", "'t", " X", "'LL", "  ", " end", "\n\n", "x"],
    "tekken": ["a", " ", "2", "0", "2", "4", " don", "'t", " X", "'LL", "  ", " end", "\n\n", "x"],
}


@pytest.mark.parametrize("pre", list(PIECES))
def test_text_is_cut_by_the_rules_of_its_kind(tmp_path: Path, pre: str) -> None:
    tokenizer = built(tmp_path, TinyGguf(pre=pre))
    cut = tokenizer.pre_tokenizer.pre_tokenize_str("a 2024 don't X'LL   end\n\nx")
    alphabet = {stand_in: byte for byte, stand_in in byte_alphabet().items()}
    assert [bytes(alphabet[char] for char in piece).decode() for piece, _ in cut] == PIECES[pre]


@pytest.mark.parametrize("pre", [*PIECES, None])
def test_byte_level_gives_every_text_back(tmp_path: Path, pre: str | None) -> None:
    tokenizer = built(tmp_path, TinyGguf(pre=pre))
    for text in CORPUS:
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=True) == text


def test_special_tokens_are_one_token_each(tmp_path: Path) -> None:
    tokenizer = built(tmp_path, TinyGguf())
    assert tokenizer.encode("<|im_start|>the<|im_end|>").tokens == ["<|im_start|>", "the", "<|im_end|>"]
    assert tokenizer.decode(tokenizer.encode("".join(BPE_SPECIALS)).ids, skip_special_tokens=True) == ""


@pytest.mark.parametrize(
    ("pre", "metadata", "begins"),
    [
        ("gpt-2", {}, False),
        ("llama-bpe", {}, True),
        ("llama-bpe", {"tokenizer.ggml.add_bos_token": False}, False),
        ("gpt-2", {"tokenizer.ggml.add_bos_token": True}, True),
    ],
)
def test_the_begin_token_stands_where_the_model_wants_it(
    tmp_path: Path, pre: str, metadata: dict[str, Any], begins: bool
) -> None:
    tokenizer = built(tmp_path, TinyGguf(pre=pre, metadata=metadata))
    assert (tokenizer.encode("the").ids[0] == 0) == begins
    assert tokenizer.encode("the", add_special_tokens=False).tokens == ["the"]
