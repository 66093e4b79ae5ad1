"""What a run will need of the machine's memory, held against what there is, before a weight is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from mlxk2.inspection.describe import Inspection
from mlxk2.inspection.memory import kv_bytes
from mlxk2.inspection.sharding import part_bytes
from mlxk2.runner.limits import MemoryDemand, check_memory, memory_limit_bytes
from mlxk2.runner.request import EngineOptions

_SMALLEST_ANSWER_TOKENS = 16


@dataclass(frozen=True)
class MemoryPlan:
    """The weights of a model and its draft, their configs, and the machine's limit. Units: bytes.

    `share` is the part of the layers that this machine holds, where several hold one model together.
    """

    weights_bytes: int
    configs: tuple[Mapping[str, Any], ...]
    context_length: int | None
    limit_bytes: int | None
    engine: EngineOptions
    force: bool
    share: float = 1.0

    @classmethod
    def of(
        cls,
        inspection: Inspection,
        draft: Inspection | None,
        engine: EngineOptions,
        *,
        limit: int | None,
        force: bool,
        share: float = 1.0,
    ) -> MemoryPlan:
        """Read the headers of both models' weights. `limit`: bytes that may be used; None asks the machine."""
        models = [inspection] if draft is None else [inspection, draft]
        return cls(
            weights_bytes=_adapter_bytes(engine) + sum(part_bytes(model.files, share) for model in models),
            configs=tuple(model.files.config or {} for model in models),
            context_length=inspection.info.context_length,
            limit_bytes=limit if limit is not None else memory_limit_bytes(),
            engine=engine,
            force=force,
            share=share,
        )

    def check(self, tokens: int, device_limit: int | None = None) -> None:
        """Do nothing when `tokens` positions fit into the machine, and the device where it is known, or with `force`.

        Raises: InsufficientMemory naming the figures and what would fit.
        """
        if self.force:
            return
        limit = self._limit(device_limit)
        tokens = min(tokens, self.context_length) if self.context_length else tokens
        check_memory(self.demand(tokens), limit, self._ways(tokens, limit))

    def rows(self, tokens: int, device_limit: int | None = None) -> int | None:
        """Return how many sequences of `tokens` positions fit side by side; None: as many as one likes."""
        limit = self._limit(device_limit)
        row_bytes = self.demand(tokens).kv_bytes
        if self.force or limit is None or not row_bytes:
            return None
        return max(limit - self.demand(0).total_bytes, 0) // row_bytes

    def _limit(self, device_limit: int | None) -> int | None:
        return min((bytes_ for bytes_ in (self.limit_bytes, device_limit) if bytes_ is not None), default=None)

    def demand(self, tokens: int) -> MemoryDemand:
        """Return what weights and `tokens` positions need."""
        return MemoryDemand(self.weights_bytes, self._kv_bytes(tokens, self.engine.cache.kv_bits))

    def _kv_bytes(self, tokens: int, bits: int | None) -> int:
        kept = tokens if self.engine.cache.max_kv_size is None else min(tokens, self.engine.cache.max_kv_size)
        # Where the layers are divided, their KV cache is.
        return ceil(self.share * sum(kv_bytes(config, kept, bits) or 0 for config in self.configs))

    def _ways(self, tokens: int, limit: int | None) -> tuple[str, ...]:
        """What the user could type so that it fits."""
        if limit is None:
            return ()
        room = limit - self.demand(0).total_bytes
        ways = []
        fitting = self._fitting_tokens(tokens, room)
        if fitting >= _SMALLEST_ANSWER_TOKENS:
            ways.append(f"prompt and answer of {fitting} tokens fit: lower --max-tokens")
        if self.engine.cache.kv_bits is None and room > 0:
            bits = next((bits for bits in (8, 4) if self._kv_bytes(tokens, bits) <= room), None)
            if bits is not None:
                ways.append(f"--kv-bits {bits} fits")
        return tuple(ways)

    def _fitting_tokens(self, tokens: int, room: int) -> int:
        """The most positions below `tokens` whose KV cache fits into `room` bytes; it grows with every one of them."""
        low, high = 0, tokens
        while low < high:
            middle = (low + high + 1) // 2
            fits = self._kv_bytes(middle, self.engine.cache.kv_bits) <= room
            low, high = (middle, high) if fits else (low, middle - 1)
        return low


def _adapter_bytes(engine: EngineOptions) -> int:
    """What the weights of an adapter take; a missing one is an error of its own, later."""
    if engine.adapter is None:
        return 0
    try:
        return (engine.adapter / "adapters.safetensors").stat().st_size
    except OSError:
        return 0
