"""GGUF vocabulary -> tokenizer.json and tokenizer_config.json. Knows two kinds: byte-level BPE ("gpt2") and SPM ("llama").

Source: llama.cpp's llama-vocab.cpp (kinds of `pre`, defaults, token types), transformers' convert_slow_tokenizer.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from mlxk2.convert.gguf_metadata import Metadata
from mlxk2.errors import UnsupportedFormat

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
# Longer pieces are runs of one character; cutting a megabyte at every place would never end.
MAX_PIECE = 512

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class _Pre:
    """How text is cut before BPE: by `pattern` (None: GPT-2's own), digits on their own, NFC, whole words first."""

    pattern: str | None = None
    digits: bool = False
    nfc: bool = False
    whole_words: bool = False
    add_bos: bool = False


_GPT2 = _Pre()
_DIGITS = _Pre(digits=True)
_QWEN2 = _Pre(pattern=_LLAMA3.replace("{1,3}", ""), nfc=True)
_LLAMA_BPE = _Pre(pattern=_LLAMA3, whole_words=True, add_bos=True)
PRE_TOKENIZERS: dict[str, _Pre] = {
    "default": _GPT2,
    "gpt-2": _GPT2,
    "smollm": _DIGITS,
    "starcoder": _DIGITS,
    "refact": _DIGITS,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "llama3": _LLAMA_BPE,
    "llama-v3": _LLAMA_BPE,
    "llama-bpe": _LLAMA_BPE,
    "tekken": _Pre(pattern=_TEKKEN, whole_words=True, add_bos=True),
}


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a file with their kinds, and the ids that mean something."""

    tokens: tuple[str, ...]
    types: tuple[int, ...]
    bos: int | None
    eos: int | None
    pad: int | None
    unknown: int | None
    ends: tuple[int, ...]
    add_bos: bool

    def text(self, token_id: int | None) -> str | None:
        return None if token_id is None else self.tokens[token_id]


@dataclass(frozen=True)
class BuiltTokenizer:
    """A tokenizer, its configuration, and its vocabulary's special ids."""

    tokenizer: Tokenizer
    config: dict[str, Any]
    vocabulary: Vocabulary
    chat_template: str | None


def build_tokenizer(meta: Metadata, vocab_size: int) -> BuiltTokenizer:
    """Build the tokenizer that the metadata describe.

    Raises: UnsupportedFormat for kinds of tokenizers that convert does not know; InvalidSource for damaged vocabularies.
    """
    kind = meta.text("tokenizer.ggml.model", None)
    if kind not in ("gpt2", "llama"):
        what = "no tokenizer" if kind is None else f"a tokenizer of the kind '{kind}'"
        raise UnsupportedFormat(f"{meta.file_name} holds {what}", hint="convert knows gpt2 (BPE) and llama (SPM)")
    pre = _pre_tokenizer(meta) if kind == "gpt2" else None
    vocabulary = _vocabulary(meta, vocab_size, add_bos=pre.add_bos if pre else True)
    tokenizer = _byte_level(meta, vocabulary, pre) if pre else _sentence_piece(meta, vocabulary)
    _add_specials(tokenizer, vocabulary)
    return BuiltTokenizer(tokenizer, _config(meta, vocabulary), vocabulary, meta.text("tokenizer.chat_template", None))


def _pre_tokenizer(meta: Metadata) -> _Pre:
    name = meta.text("tokenizer.ggml.pre", "default")
    if name not in PRE_TOKENIZERS:
        raise UnsupportedFormat(
            f"{meta.file_name} cuts its text by rules named '{name}', which convert does not know",
            hint=f"known: {', '.join(PRE_TOKENIZERS)}",
        )
    return PRE_TOKENIZERS[name]


def _vocabulary(meta: Metadata, vocab_size: int, *, add_bos: bool) -> Vocabulary:
    tokens = meta.items("tokenizer.ggml.tokens", (str,))
    if not 0 < len(tokens) <= vocab_size:
        raise meta.wrong("tokenizer.ggml.tokens", f"holds {len(tokens)} tokens, the model {vocab_size}")
    if len(set(tokens)) < len(tokens):
        raise meta.wrong("tokenizer.ggml.tokens", "holds the same token twice")
    types = meta.items("tokenizer.ggml.token_type", (int,), None) or [NORMAL] * len(tokens)
    if len(types) != len(tokens):
        raise meta.wrong("tokenizer.ggml.token_type", f"holds {len(types)} values for {len(tokens)} tokens")

    def token_id(name: str) -> int | None:
        value: int | None = meta.integer(f"tokenizer.ggml.{name}_token_id", None, least=0, most=2**32 - 1)
        if value is None or value == 2**32 - 1:
            return None
        if value >= len(tokens):
            raise meta.wrong(f"tokenizer.ggml.{name}_token_id", f"is {value}, but there are {len(tokens)} tokens")
        return value

    ends = (token_id("eos"), token_id("eot"), token_id("eom"))
    return Vocabulary(
        tokens=tuple(tokens),
        types=tuple(types),
        bos=token_id("bos"),
        eos=token_id("eos"),
        pad=token_id("padding"),
        unknown=token_id("unknown"),
        ends=tuple(dict.fromkeys(end for end in ends if end is not None)),
        add_bos=meta.flag("tokenizer.ggml.add_bos_token", add_bos),
    )


def _byte_level(meta: Metadata, vocabulary: Vocabulary, pre: _Pre) -> Tokenizer:
    ids = {token: number for number, token in enumerate(vocabulary.tokens)}
    merges = _merges(meta, ids)
    tokenizer = Tokenizer(BPE(vocab=ids, merges=merges, ignore_merges=pre.whole_words))
    if pre.nfc:
        tokenizer.normalizer = normalizers.NFC()
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if pre.digits else []
    if pre.pattern is not None:
        steps.append(pre_tokenizers.Split(Regex(pre.pattern), behavior="isolated", invert=False))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre.pattern is None))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    begin = _begin_processor(vocabulary)
    byte_level = processors.ByteLevel(trim_offsets=False)
    tokenizer.post_processor = processors.Sequence([byte_level, begin]) if begin else byte_level
    return tokenizer


def _sentence_piece(meta: Metadata, vocabulary: Vocabulary) -> Tokenizer:
    ids = {token: number for number, token in enumerate(vocabulary.tokens)}
    has_merges = meta.has("tokenizer.ggml.merges")
    merges = _merges(meta, ids) if has_merges else _merges_from_scores(meta, vocabulary, ids)
    unknown = vocabulary.text(vocabulary.unknown)
    if unknown is None:
        unknown = next((t for t, kind in zip(vocabulary.tokens, vocabulary.types) if kind == UNKNOWN), None)
    has_bytes = all(f"<0x{byte:02X}>" in ids for byte in range(256))
    tokenizer = Tokenizer(BPE(vocab=ids, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=has_bytes))
    prefix = meta.flag("tokenizer.ggml.add_space_prefix", True)
    steps: list[Any] = [normalizers.Prepend("▁")] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    ending: list[Any] = [decoders.Strip(content=" ", left=1, right=0)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *ending]
    )
    begin = _begin_processor(vocabulary)
    if begin is not None:
        tokenizer.post_processor = begin
    return tokenizer


def _begin_processor(vocabulary: Vocabulary) -> Any:
    """Put the begin token before every text, where the model wants it."""
    begin = vocabulary.text(vocabulary.bos)
    if begin is None or not vocabulary.add_bos:
        return None
    # "$" and ":" mean something in a template, and a token may hold them: then it gets another label there.
    label = "begin" if "$" in begin or ":" in begin else begin
    special = {"id": label, "ids": [vocabulary.bos], "tokens": [begin]}
    return processors.TemplateProcessing(
        single=[label, "$A"], pair=[label, "$A", f"{label}:1", "$B:1"], special_tokens=[special]
    )


def _merges(meta: Metadata, ids: dict[str, int]) -> list[tuple[str, str]]:
    merges = []
    for line in meta.items("tokenizer.ggml.merges", (str,)):
        # A piece may itself begin with a space, so the cut is sought behind the first character.
        cut = line.find(" ", 1)
        left, right = line[:cut], line[cut + 1 :]
        if cut < 0 or left not in ids or right not in ids or left + right not in ids:
            raise meta.wrong("tokenizer.ggml.merges", f"joins what is not in the vocabulary: '{line[:60]}'")
        merges.append((left, right))
    return merges


def _merges_from_scores(meta: Metadata, vocabulary: Vocabulary, ids: dict[str, int]) -> list[tuple[str, str]]:
    """Find the merges that SPM's scores imply: the better the score of a piece, the earlier it is joined."""
    scores = meta.items("tokenizer.ggml.scores", (float,))
    if len(scores) != len(vocabulary.tokens):
        raise meta.wrong("tokenizer.ggml.scores", f"holds {len(scores)} values for {len(vocabulary.tokens)} tokens")
    ranked = []
    for number, token in enumerate(vocabulary.tokens):
        if vocabulary.types[number] not in (NORMAL, USER_DEFINED, UNUSED) or len(token) > MAX_PIECE:
            continue
        for cut in range(1, len(token)):
            left, right = ids.get(token[:cut]), ids.get(token[cut:])
            if left is not None and right is not None:
                ranked.append((-scores[number], number, left, right))
    ranked.sort()
    return [(vocabulary.tokens[left], vocabulary.tokens[right]) for _, _, left, right in ranked]


def _add_specials(tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
    special, plain = [], []
    for token, kind in zip(vocabulary.tokens, vocabulary.types):
        if kind in (CONTROL, UNKNOWN) and token:
            special.append(AddedToken(token, normalized=False, special=True))
        elif kind == USER_DEFINED and token:
            plain.append(AddedToken(token, normalized=False, special=False))
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(plain)


def _config(meta: Metadata, vocabulary: Vocabulary) -> dict[str, Any]:
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": vocabulary.add_bos,
        "clean_up_tokenization_spaces": False,
        "model_max_length": meta.integer(".context_length"),
        "added_tokens_decoder": {
            str(number): _added(token, kind)
            for number, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types))
            if kind in (CONTROL, UNKNOWN, USER_DEFINED)
        },
    }
    for name in ("bos", "eos", "pad", "unknown"):
        text = vocabulary.text(getattr(vocabulary, name))
        if text is not None:
            config["unk_token" if name == "unknown" else f"{name}_token"] = text
    return config


def _added(token: str, kind: int) -> dict[str, Any]:
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    return {"content": token, **flags, "special": kind != USER_DEFINED}
