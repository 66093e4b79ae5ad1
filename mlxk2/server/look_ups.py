"""Which models names stand for: each is looked up once for all who ask at about the same time."""

from __future__ import annotations

import asyncio
import copy
import time

from mlxk2.errors import MlxkError
from mlxk2.server.host_types import Resolve
from mlxk2.server.protocol import EngineSpec

# Seconds that a name stands for the same model without being looked up again.
_NAME_LASTS_S = 2.0
_MOST_NAMES = 64


class LookUps:
    """Finds models in threads, by `resolve`. `asking`: how many requests wait for that."""

    def __init__(self, resolve: Resolve) -> None:
        self.asking = 0
        self._resolve = resolve
        self._names: dict[str, tuple[EngineSpec, float]] = {}
        self._under_way: dict[str, asyncio.Task[EngineSpec]] = {}

    @property
    def is_busy(self) -> bool:
        """Whether somebody waits."""
        return bool(self.asking or self._under_way)

    async def find(self, name: str, *, is_request: bool) -> EngineSpec:
        """Return what a name means. Raises: ModelNotFound, what `resolve` raises."""
        known = self._names.get(name)
        if known is not None and time.monotonic() < known[1]:
            return known[0]
        self.asking += is_request
        try:
            # Whoever leaves does not end what others wait for.
            return await asyncio.shield(self._look_up_of(name))
        except MlxkError as error:
            raise copy.copy(error) from None
        finally:
            self.asking -= is_request

    def _look_up_of(self, name: str) -> asyncio.Task[EngineSpec]:
        """Return the look-up of a name that is under way, or a new one."""
        under_way = self._under_way.get(name)
        if under_way is None:
            under_way = self._under_way[name] = asyncio.ensure_future(self._look_up(name))
            # Where everybody has left, nobody asks for its error.
            under_way.add_done_callback(lambda task: task.cancelled() or task.exception())
        return under_way

    async def _look_up(self, name: str) -> EngineSpec:
        try:
            spec = await asyncio.to_thread(self._resolve, name)
        finally:
            del self._under_way[name]
        if len(self._names) >= _MOST_NAMES:
            self._names.clear()
        self._names[name] = (spec, time.monotonic() + _NAME_LASTS_S)
        return spec
