"""Memory: which requests fit beside each other, and how much of it what was read before may keep. Asks no engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlxk2 import errors
from mlxk2.inspection.memory import kv_bytes
from mlxk2.runner.limits import EXPECTED_ANSWER_TOKENS, PREFILL_HEADROOM_BYTES
from mlxk2.runner.request import CacheOptions


@dataclass(frozen=True)
class Room:
    """What the model's process may use. Units: bytes; positions are those of a KV cache, the longest row's for each row.

    `limit_bytes` None: nobody knows, everything fits.
    """

    config: Mapping[str, Any]
    cache: CacheOptions
    weights_bytes: int
    limit_bytes: int | None

    def check(self, positions: int) -> None:
        """Do nothing where one row of so many positions fits. Raises: InsufficientMemory with the figures."""
        needed, limit = self._needed(1, positions), self.limit_bytes
        if limit is None or needed <= limit:
            return
        kv = self._kv_bytes(positions)
        raise errors.InsufficientMemory(
            f"prompt and answer need {_megabytes(kv)} for {positions} tokens beside the weights "
            f"({_megabytes(self.weights_bytes)}) and {_megabytes(PREFILL_HEADROOM_BYTES)} to work in, "
            f"but only {_megabytes(limit)} can be used",
            hint="ask for fewer tokens, or shorten the prompt",
            required_bytes=needed,
            weights_bytes=self.weights_bytes,
            kv_bytes=kv,
            available_bytes=limit,
        )

    def holds(self, rows: int, widest: int) -> bool:
        """Return whether so many rows fit."""
        return self.limit_bytes is None or self._needed(rows, widest) <= self.limit_bytes

    def left(self, rows: int, widest: int) -> int | None:
        """Return what such rows leave for other things; None where everything fits."""
        return None if self.limit_bytes is None else max(self.limit_bytes - self._needed(rows, widest), 0)

    def _needed(self, rows: int, widest: int) -> int:
        return self.weights_bytes + rows * self._kv_bytes(widest) + PREFILL_HEADROOM_BYTES

    def _kv_bytes(self, positions: int) -> int:
        most = self.cache.max_kv_size
        kept = positions if most is None else min(positions, most)
        return kv_bytes(self.config, kept, self.cache.kv_bits) or 0


def expected_positions(prompt_tokens: int, max_tokens: int, *, is_asked_for: bool) -> int:
    """Return how many positions prompt and answer take: a limit that nobody asked for is seldom reached."""
    return prompt_tokens + (max_tokens if is_asked_for else min(max_tokens, EXPECTED_ANSWER_TOKENS))


def _megabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1_000_000_000 else f"{size / 1e6:.2f} MB"
