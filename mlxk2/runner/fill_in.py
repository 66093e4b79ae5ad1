"""Fill in the middle: how models are shown what comes before and after the text that they are to write."""

from __future__ import annotations

from typing import NamedTuple

from mlxk2 import errors

from .tokenizer import TextTokenizer


class Marks(NamedTuple):
    """Three tokens: before the text in front, before the text behind, and where the middle begins ("" for none).

    `suffix_first`: the text behind is shown first, since the answer goes on with the text in front.
    """

    prefix: str
    suffix: str
    middle: str
    suffix_first: bool = False


# As the models' own documentation has them.
_KNOWN = (
    Marks("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    Marks("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    Marks("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    Marks("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    Marks("▁<PRE>", "▁<SUF>", "▁<MID>"),
    Marks("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),
    Marks("<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>", suffix_first=True),
    Marks("[PREFIX]", "[SUFFIX]", "", suffix_first=True),
)

# What such models say where the middle ends, besides what ends a text.
_ENDERS = ("<|endoftext|>", "<|file_sep|>", "<|file_separator|>", "<|fim_pad|>", "<|repo_name|>", "▁<EOT>", "<EOT>")


def can_fill_in(tokenizer: TextTokenizer) -> bool:
    """Return whether the vocabulary has marks for it."""
    return any(_knows(tokenizer, marks) for marks in _KNOWN)


def find_marks(tokenizer: TextTokenizer) -> Marks:
    """Return the marks that the vocabulary has. Raises: UsageError."""
    found = next((marks for marks in _KNOWN if _knows(tokenizer, marks)), None)
    if found is None:
        raise errors.UsageError("suffix: this model has no tokens to fill in the middle of a text")
    return found


def arranged(marks: Marks, prefix: str, suffix: str, tokenizer: TextTokenizer) -> tuple[int, ...]:
    """Return the ids that ask for what belongs between `prefix` and `suffix`. Raises: UsageError."""
    before = (*_mark(tokenizer, marks.prefix), *tokenizer.encode(prefix, add_special_tokens=False))
    after = (*_mark(tokenizer, marks.suffix), *tokenizer.encode(suffix, add_special_tokens=False))
    if not marks.suffix_first:
        return (*before, *after, *_mark(tokenizer, marks.middle))
    # The middle goes on behind the text in front.
    return (*after, *before, *_mark(tokenizer, marks.middle))


def enders(tokenizer: TextTokenizer) -> frozenset[int]:
    """Return the ids that end the middle."""
    return frozenset(found for found in map(tokenizer.id_of, _ENDERS) if found is not None)


def _knows(tokenizer: TextTokenizer, marks: Marks) -> bool:
    return all(tokenizer.id_of(mark) is not None for mark in marks[:3] if mark)


def _mark(tokenizer: TextTokenizer, mark: str) -> tuple[int, ...]:
    found = tokenizer.id_of(mark) if mark else None
    return () if found is None else (found,)
