"""The engine process: one thread that owns MLX and answers requests side by side. Knows no HTTP."""

from __future__ import annotations

from .loop import run_engine

__all__ = ["run_engine"]
