"""The models that can be asked: those of the cache that are sound and runnable, and the loaded one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Callable

from mlxk2.errors import ModelNotFound
from mlxk2.inspection.describe import ModelInfo
from mlxk2.server.host_types import READY, HostLike
from mlxk2.server.protocol import Ready
from mlxk2.server.settings import ServerSettings

Catalog = Callable[[], Sequence[ModelInfo]]

# How long what was seen on disk counts as still there.
_FRESH_S = 5.0


def nothing_cached() -> Sequence[ModelInfo]:
    """The catalog of a server without a cache."""
    return ()


class Models:
    """Lists models. `catalog` reads the disk; it is asked in a thread, and not more often than every few seconds."""

    def __init__(self, catalog: Catalog, host: HostLike, settings: ServerSettings) -> None:
        self._catalog, self._host, self._wanted = catalog, host, settings.models
        self._seen: Sequence[ModelInfo] = ()
        self._seen_at = float("-inf")
        self._lock = asyncio.Lock()

    async def listed(self) -> list[dict[str, Any]]:
        """Return every model, as OpenAI's API describes one and a little more."""
        infos = [info for info in await self._fresh() if self._is_usable(info)]
        models = {info.name: _described(info) for info in infos}
        snapshot = self._host.snapshot()
        if snapshot.model is not None:
            entry = models.setdefault(snapshot.model, _unknown(snapshot.model, int(snapshot.started_at)))
            entry["loaded"] = snapshot.state == READY
            if snapshot.ready is not None:
                entry["context_length"] = snapshot.ready.context_length
                entry["tool_calls"] = _tool_calls(snapshot.ready)
        return [models[name] for name in sorted(models)]

    async def one(self, name: str) -> dict[str, Any]:
        """Return one model, by any name that a request may give it. Raises: ModelNotFound, what `name_of` raises."""
        models = {model["id"]: model for model in await self.listed()}
        found = models.get(name) or models.get(await self._host.name_of(name))
        if found is None:
            raise ModelNotFound(f"the model {name[:100]!r} does not exist, or cannot be run", param="model")
        return found

    async def _fresh(self) -> Sequence[ModelInfo]:
        async with self._lock:
            if time.monotonic() - self._seen_at > _FRESH_S:
                self._seen = await asyncio.to_thread(self._catalog)
                self._seen_at = time.monotonic()
            return self._seen

    def _is_usable(self, info: ModelInfo) -> bool:
        return info.health == "healthy" and info.runtime_compatible and (not self._wanted or info.name in self._wanted)


def _described(info: ModelInfo) -> dict[str, Any]:
    return {
        "id": info.name,
        "object": "model",
        "created": _seconds(info.last_modified),
        "owned_by": info.name.partition("/")[0] if "/" in info.name else "local",
        "context_length": info.context_length,
        "capabilities": list(info.capabilities),
        "loaded": False,
    }


def _unknown(name: str, created: int) -> dict[str, Any]:
    """A model that is loaded and was not found in the cache: a workspace, mostly."""
    owner = name.partition("/")[0] if "/" in name.strip("/") else "local"
    return {
        "id": name, "object": "model", "created": created, "owned_by": owner or "local", "context_length": None,
        "capabilities": [], "loaded": False,
    }  # fmt: skip


def _tool_calls(ready: Ready) -> str:
    """Say when calls of tools are found in answers; "demanded": only where `tool_choice` demands one."""
    if not ready.has_tools:
        return "none"
    return "found" if ready.finds_calls else "demanded"


def _seconds(moment: str | None) -> int:
    try:
        return int(datetime.fromisoformat((moment or "").replace("Z", "+00:00")).timestamp())
    except ValueError:
        return 0
