"""LoRA weights over a loaded model, as mlx_lm.lora writes them; only what fits is let in.

mlx-lm before 0.32 takes whatever a file holds: names that the model has not are ignored, and shapes that are not its own
are taken, after which MLX reads beyond its arrays.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlxk2 import errors
from mlxk2.inspection.safetensors import HeaderError, read_header

from .library import import_module, translated

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapters.safetensors"

_PARTS = ("lora_a", "lora_b", "m")
_MAX_CONFIG_BYTES = 2**20
_HINT = "use an adapter that was trained on this model"


def load_adapter(model: Any, folder: Path) -> None:
    """Put the adapter in `folder` over `model`.

    Raises: IncompatibleModel saying what does not fit.
    """
    config = _config(folder / CONFIG_FILE)
    with translated("the adapter does not fit the model", errors.IncompatibleModel, _HINT):
        kind = config.get("fine_tune_type", "lora")
        if kind != "full":
            tuner = import_module("mlx_lm.tuner.utils")
            layers, parameters = config["num_layers"], config["lora_parameters"]
            tuner.linear_to_lora_layers(model, layers, parameters, use_dora=kind == "dora")
        _check(model, folder / WEIGHTS_FILE, of_adapter_only=kind != "full")
        model.load_weights(str(folder / WEIGHTS_FILE), strict=False)
        model.eval()


def _config(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            config = json.loads(file.read(_MAX_CONFIG_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise errors.IncompatibleModel(f"{CONFIG_FILE} of the adapter cannot be read: {error}", hint=_HINT) from error
    if not isinstance(config, dict):
        raise errors.IncompatibleModel(f"{CONFIG_FILE} of the adapter is no JSON object", hint=_HINT)
    return config


def _check(model: Any, path: Path, *, of_adapter_only: bool) -> None:
    """Hold every tensor of the file against the parameter that it would replace."""
    from mlx.utils import tree_flatten

    try:
        tensors = read_header(str(path), path.stat().st_size).tensors
    except (HeaderError, OSError) as error:
        raise errors.IncompatibleModel(f"{WEIGHTS_FILE} of the adapter is broken: {error}", hint=_HINT) from error
    shapes = {name: list(value.shape) for name, value in tree_flatten(model.parameters())}
    if of_adapter_only:
        shapes = {name: shape for name, shape in shapes.items() if name.rsplit(".", 1)[-1] in _PARTS}
    wrong = next((name for name in sorted(tensors) if shapes.get(name) != list(tensors[name]["shape"])), None)
    if wrong is None and tensors:
        return
    what = f"{wrong} is no part of it, or of another shape" if wrong is not None else f"{WEIGHTS_FILE} is empty"
    raise errors.IncompatibleModel(f"the adapter does not fit the model: {what}", hint=_HINT)
