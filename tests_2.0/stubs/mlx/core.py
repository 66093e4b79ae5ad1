"""The few names of mlx.core that MLX Knife uses, on plain Python lists."""

from __future__ import annotations

import random as _random
from collections.abc import Iterable
from typing import Any


class array(list):  # noqa: N801 - the name of the real thing
    """A one-dimensional array."""

    def __init__(self, values: Iterable[int] = ()) -> None:
        super().__init__(values)

    @property
    def size(self) -> int:
        return len(self)


class random:  # noqa: N801 - the name of the real thing
    """One global state, as in MLX."""

    state = _random.Random()

    @classmethod
    def seed(cls, seed: int) -> None:
        if not 0 <= seed < 2**64:
            raise TypeError("seed(): incompatible function arguments")
        cls.state.seed(seed)


def device_info() -> dict[str, Any]:
    return {"architecture": "stub", "device_name": "stub"}


def synchronize() -> None:
    """Nothing runs in the background."""


def clear_streams() -> None:
    """There are none."""


def clear_cache() -> None:
    """There is none."""
