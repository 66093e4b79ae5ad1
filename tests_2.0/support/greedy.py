"""What mlx-lm itself says, greedily, given token ids: the judge that shares no code with the package under test."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def greedy_ids(folder: Path, prompt_ids: Sequence[int], count: int) -> list[int]:
    """Load `folder` through mlx-lm and return the `count` likeliest tokens, one after the other."""
    load_model, generate_step = _mlx_lm()
    import mlx.core as mx

    model = load_model(folder)[0]
    steps = generate_step(mx.array(list(prompt_ids)), model, max_tokens=count)
    return [int(token) for token, _ in steps]


def _mlx_lm() -> tuple[Any, Any]:
    """Import the two functions without letting mlx-lm lower the limit of open files of the test process."""
    import importlib

    original = resource.setrlimit
    resource.setrlimit = lambda *_args: None  # type: ignore[assignment]
    try:
        return importlib.import_module("mlx_lm.utils").load_model, importlib.import_module(
            "mlx_lm.generate"
        ).generate_step
    finally:
        resource.setrlimit = original
