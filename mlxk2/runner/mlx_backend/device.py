"""The device that MLX computes on: what it is, how much it should hold, and how to leave it in peace."""

from __future__ import annotations

import atexit
from typing import NamedTuple

import mlx.core as mx

_CPU_CACHE_BYTES = 8 * 2**20


def recommended_memory_bytes() -> int | None:
    """Return what the device says a process should use at most, None where it does not say."""
    info = mx.device_info() if hasattr(mx, "device_info") else {}
    value = info.get("max_recommended_working_set_size")
    return int(value) if value else None


def wire_memory() -> None:
    """Let the system keep the recommended working set in memory; nothing happens where the device has none."""
    limit = recommended_memory_bytes()
    if limit is not None:
        mx.set_wired_limit(limit)


def on_metal() -> bool:
    """Return whether MLX computes on Apple's GPU."""
    metal = getattr(mx, "metal", None)
    return metal is not None and bool(metal.is_available())


def settle() -> None:
    """Wait for what is still being computed and return unused buffers."""
    mx.synchronize()
    if hasattr(mx, "clear_cache"):
        mx.clear_cache()


def bound_reuse() -> None:
    """Let the C library reuse larger buffers where the processor computes: MLX does it for those of the same size only."""
    if mx.default_device().type == mx.DeviceType.cpu:
        mx.set_cache_limit(_CPU_CACHE_BYTES)


class MemoryFigures(NamedTuple):
    """What MLX uses: now, at most so far, and in buffers that it keeps for reuse. Units: bytes."""

    active: int
    peak: int
    cached: int


def memory_figures() -> MemoryFigures:
    """Return what MLX uses."""
    return MemoryFigures(mx.get_active_memory(), mx.get_peak_memory(), mx.get_cache_memory())


@atexit.register
def end_thread() -> None:
    """Let go of what MLX keeps for the calling thread, or for the process that ends; nothing may follow."""
    # A process that ends while MLX's stream threads live is aborted now and then.
    mx.synchronize()
    if hasattr(mx, "clear_streams"):
        mx.clear_streams()
