"""A speaker that says any token that a mask allows: every answer that a model could be brought to give, without one."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mlxk2.runner.grammar import Grammar, TokenMask

# How often an answer that may end does so: often enough to end, rarely enough to say something first.
_ENDS = 0.2


@dataclass(frozen=True)
class Spoken:
    """What was said before the stop token; `ended` is False where the limit cut it off."""

    text: str
    ids: tuple[int, ...]
    ended: bool
    mask: TokenMask


def speak(grammar: Grammar, mask: TokenMask, seed: int, limit: int = 300, first: Sequence[int] = ()) -> Spoken:
    """Say the tokens `first`, then random ones that the mask allows, until a stop token or `limit` tokens."""
    draw, said, new = random.Random(seed), list(first), tuple(first)
    while len(said) < limit:
        allowed = list(allowed_ids(mask.advance(new)))
        stops = [token for token in allowed if token in grammar.stop_ids]
        token = draw.choice(stops) if stops and draw.random() < _ENDS else draw.choice(allowed)
        new = (token,)
        if token in grammar.stop_ids:
            break
        said.append(token)
    mask.advance(new)
    text = grammar.text_of(said).decode("utf-8", "replace")
    return Spoken(text, tuple(said), new[0] in grammar.stop_ids, mask)


def allowed_ids(bits: bytes | None) -> Iterator[int]:
    """The tokens in a mask, lowest first."""
    assert bits is not None
    for place, byte in enumerate(bits):
        for bit in range(8):
            if byte >> bit & 1:
                yield place * 8 + bit
