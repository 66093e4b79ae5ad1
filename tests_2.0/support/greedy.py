"""What mlx-lm itself says, greedily, given token ids: the judge of what the package under test makes and says."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path


def greedy_ids(folder: Path, prompt_ids: Sequence[int], count: int) -> list[int]:
    """Load `folder` through mlx-lm and return the `count` likeliest tokens, one after the other."""
    import mlx.core as mx

    from mlxk2.runner.mlx_backend import file_limit_kept

    with file_limit_kept():
        utils = importlib.import_module("mlx_lm.utils")
        generate = importlib.import_module("mlx_lm.generate")
    model = utils.load_model(folder)[0]
    steps = generate.generate_step(mx.array(list(prompt_ids)), model, max_tokens=count)
    return [int(token) for token, _ in steps]
