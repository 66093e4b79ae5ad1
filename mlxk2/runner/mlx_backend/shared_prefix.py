"""What the prompts of a batch begin with alike, read once for all of them. Knows ids and KV caches only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlxk2.runner.request import CacheOptions

from .cache_kinds import empty_layers
from .engine import Engine
from .kv_state import common_prefix

# Fewer ids are sooner read than kept.
_SHORTEST = 16


class SharedPrefix:
    """The beginning that a prompt has in common with the one before it: instructions, examples, the template's head.

    What is read anew saves the prompt at hand as much as it costs, so that changing beginnings are never a loss.
    """

    def __init__(self, engine: Engine, options: CacheOptions) -> None:
        self._engine = engine
        self._options = options
        self._ids: list[int] = []
        self._layers: list[Any] = []
        self._previous: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self._ids)

    def split(self, prompt_ids: Sequence[int]) -> tuple[list[int], list[Any]]:
        """Return the ids at the beginning of a prompt that need not be read, and layers that hold them, not to be changed.

        Raises: GenerationFailed.
        """
        # One id is always left to read.
        most = len(prompt_ids) - 1
        begins = common_prefix(self._ids, prompt_ids) == len(self._ids) <= most
        held = len(self._ids) if begins else 0
        common = min(common_prefix(self._previous, prompt_ids), most)
        self._previous = prompt_ids
        if common >= _SHORTEST and common - held >= common / 2:
            self._read(prompt_ids[: common + 1])
            held = common
        if not held:
            return [], empty_layers(self._engine.model, self._engine.mlx_lm, self._options)
        return list(self._ids), self._layers

    def _read(self, ids: Sequence[int]) -> None:
        # A state of its own: rows that have not begun yet still refer to the layers before.
        state = self._engine.new_state(self._options)
        for _ in self._engine.prefill(ids, state):
            pass
        self._ids, self._layers = state.ids, state.layers
