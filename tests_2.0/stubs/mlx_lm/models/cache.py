"""KV caches that count, and keep nothing. A module that is no architecture: the runtime verdict must not take it for one."""

from __future__ import annotations

from typing import Any


class KVCache:
    """One layer's."""

    def __init__(self) -> None:
        self.offset = 0

    @property
    def state(self) -> int:
        return self.offset

    def is_trimmable(self) -> bool:
        return True

    def trim(self, count: int) -> int:
        count = min(count, self.offset)
        self.offset -= count
        return count


def make_prompt_cache(model: Any, max_kv_size: int | None = None) -> list[KVCache]:
    return [KVCache()]


def can_trim_prompt_cache(cache: list[KVCache]) -> bool:
    return all(layer.is_trimmable() for layer in cache)


def trim_prompt_cache(cache: list[KVCache], count: int) -> int:
    return [layer.trim(count) for layer in cache][0]
