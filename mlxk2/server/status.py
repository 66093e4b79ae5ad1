"""How a server is, as `mlxk2 ps` asks for it: plain values for JSON."""

from __future__ import annotations

import time
from typing import Any

from mlxk2.server.host_types import HostSnapshot


def status_of(snapshot: HostSnapshot) -> dict[str, Any]:
    """Return what a snapshot says, the model in memory as the one entry of `loaded`. Units: bytes, seconds."""
    return {
        "state": snapshot.state,
        "problem": snapshot.problem,
        "uptime_s": round(time.time() - snapshot.started_at, 3),
        "running": snapshot.running,
        "waiting": snapshot.waiting,
        "max_concurrency": snapshot.max_concurrency,
        "max_queue": snapshot.max_queue,
        "restarts": snapshot.restarts,
        "loaded": [] if snapshot.model is None else [_model(snapshot)],
    }


def _model(snapshot: HostSnapshot) -> dict[str, Any]:
    ready, status = snapshot.ready, snapshot.status
    return {
        "name": snapshot.model,
        "state": snapshot.state,
        "pid": snapshot.pid,
        "loaded_s": None if snapshot.loaded_at is None else round(time.time() - snapshot.loaded_at, 3),
        "context_length": None if ready is None else ready.context_length,
        "weights_bytes": None if ready is None else ready.weights_bytes,
        "memory_bytes": None if status is None else status.active_bytes,
        "peak_memory_bytes": None if status is None else status.peak_bytes,
        "prefix_cache_bytes": None if status is None else status.prefix_bytes,
    }
