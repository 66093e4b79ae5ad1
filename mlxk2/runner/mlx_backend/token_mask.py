"""Applies a mask of allowed tokens to logits. Knows bits and ids; what they mean is the grammar's business."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable, Protocol

import mlx.core as mx

# What llguidance and MLX raise when they are misused, or short of memory.
_FAILURES = (ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)


class Mask(Protocol):
    """What says which tokens may come next."""

    failure: str | None

    def advance(self, ids: Sequence[int]) -> bytes | None:
        """Take the tokens said since the last time; return those that may follow, as bits, or None for all."""


def mask_processor(mask: Mask, vocab_size: int, stop_ids: frozenset[int]) -> Callable[[Any, Any], Any]:
    """Return a logits processor that forbids what `mask` does not allow, and every id from `vocab_size` on.

    It never raises, since that would end a whole batch: a failure is kept in `mask.failure` and forces a stop token.

    Shape: tokens (T,), logits (1, V) -> (1, V).
    """
    table = mx.array([[bool(byte >> bit & 1) for bit in range(8)] for byte in range(256)])
    only_stops = _bits(stop_ids, vocab_size)
    seen: int | None = None

    def process(tokens: Any, logits: Any) -> Any:
        nonlocal seen
        # The first call shows the prompt; the mask knows what it has to know of it.
        said = () if seen is None else tokens[seen:].tolist()
        seen = tokens.size
        try:
            allowed = mask.advance(said)
        except _FAILURES as error:
            mask.failure = mask.failure or str(error) or type(error).__name__
            allowed = only_stops
        if allowed is None:
            return logits
        width = logits.shape[-1]
        packed = _cut(allowed, min(vocab_size, width)).ljust((width + 7) // 8, b"\0")
        # A lookup of eight tokens at a time: the bits stay packed until they are where the logits are.
        unpacked = table[mx.array(memoryview(packed))].reshape(1, -1)[:, :width]
        return mx.where(unpacked, logits, -mx.inf)

    return process


def _bits(ids: frozenset[int], size: int) -> bytes:
    packed = bytearray((size + 7) // 8)
    for token in ids:
        packed[token >> 3] |= 1 << (token & 7)
    return bytes(packed)


def _cut(packed: bytes, size: int) -> bytes:
    """The bits of the ids below `size`."""
    whole, rest = divmod(size, 8)
    if not rest:
        return packed[:whole]
    return packed[:whole] + bytes(byte & (1 << rest) - 1 for byte in packed[whole : whole + 1])
