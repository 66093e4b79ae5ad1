"""The few names of mlx.core that MLX Knife uses, on plain Python lists."""

from __future__ import annotations

import math as _math
import random as _random
from collections.abc import Iterable, Sequence
from typing import Any

inf = float("inf")


class array(list):  # noqa: N801 - the name of the real thing
    """Numbers in a row; of more dimensions than one only what a batch of one row needs."""

    dtype = None

    def __init__(self, values: Iterable[Any] = ()) -> None:
        super().__init__(values)

    @property
    def size(self) -> int:
        return len(self)

    def astype(self, _dtype: Any) -> array:
        return self

    def __mul__(self, factor: Any) -> array:
        return array(value * factor for value in self)

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        return array(found) if isinstance(place, slice) else found


class random:  # noqa: N801 - the name of the real thing
    """Keys are seeds."""

    @staticmethod
    def key(seed: int) -> _random.Random:
        if not 0 <= seed < 2**64:
            raise TypeError("key(): incompatible function arguments")
        return _random.Random(seed)

    @staticmethod
    def categorical(logits: Sequence[float], *, key: _random.Random) -> int:
        best = max(logits)
        weights = [_math.exp(value - best) for value in logits]
        return key.choices(range(len(logits)), weights)[0]


def concatenate(parts: Iterable[Iterable[Any]]) -> array:
    return array(value for part in parts for value in part)


def compile(function: Any) -> Any:
    return function


def eval(*_arrays: Any) -> None:
    """Nothing is lazy."""


def device_info() -> dict[str, Any]:
    return {"architecture": "stub", "device_name": "stub"}


def synchronize() -> None:
    """Nothing runs in the background."""


def clear_streams() -> None:
    """There are none."""


def clear_cache() -> None:
    """There is none."""
