"""Which models the installed mlx-lm can divide between machines, and how much each gets. Imports neither of the two."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from math import ceil
from typing import Any

from mlxk2.inspection.files import ModelFiles
from mlxk2.inspection.runtime import model_module
from mlxk2.inspection.weights import SAFETENSORS_INDEX, loaded_headers

TENSOR, PIPELINE = "tensor", "pipeline"
WAYS = (TENSOR, PIPELINE)

_SHARES_TENSORS = re.compile(r"(?m)^    def shard\(")
_SHARES_LAYERS = re.compile(r"(?m)^class \w+\([^)\n]*\bPipelineMixin\b|^    def pipeline\(")
# `class Model(Other)` and `class Model(other.Model)`; `from .other import Model`, `… import Model as Other`.
_PARENT = re.compile(r"(?m)^class Model\((?:(\w+)\.Model|(\w+))\)")
_IMPORTED = re.compile(r"(?m)^from \.(\w+) import Model(?: as (\w+))?\b")
_IN_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.\d+\.")
_HEADS = ("num_attention_heads", "n_head", "n_heads")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads")
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_REPEATS_KV = "repeat_kv_layer_inplace"


def ways_to_divide(package: str, module: str) -> tuple[str, ...]:
    """Say how mlx-lm, in the folder `package`, can divide a model of its module `module`; empty where it cannot."""
    source = _source(package, module)
    if source is None:
        return ()
    found = {TENSOR: bool(_SHARES_TENSORS.search(source)), PIPELINE: bool(_SHARES_LAYERS.search(source))}
    parent = _parent(source)
    inherited = ways_to_divide(package, parent) if parent is not None and parent != module else ()
    return tuple(way for way in WAYS if found[way] or way in inherited)


def divisible_modules(package: str) -> tuple[str, ...]:
    """Name the modules of mlx-lm whose models can be divided."""
    names = sorted(entry.split(".")[0] for entry in os.listdir(os.path.join(package, "models")))
    return tuple(name for name in dict.fromkeys(names) if name != "pipeline" and ways_to_divide(package, name))


def obstacle(files: ModelFiles, package: str, way: str, size: int) -> str | None:
    """Say why this model's own figures keep it from being divided between `size` ranks; None if nothing does."""
    config = files.config or {}
    if way == PIPELINE:
        layers = _number(config, _LAYERS)
        if not files.has(SAFETENSORS_INDEX):
            return f"its weights are one file, without the index ({SAFETENSORS_INDEX}) that names the layers"
        return f"it has only {layers} layers" if layers is not None and layers < size else None
    heads = _number(config, _HEADS)
    kv_heads = _number(config, _KV_HEADS) or heads
    if heads is not None and heads % size:
        return f"its {heads} attention heads cannot be divided by {size}"
    if kv_heads is not None and kv_heads % size and not (size % kv_heads == 0 and _repeats(files, package)):
        return f"its {kv_heads} key-value heads cannot be divided by {size}"
    return None


def share_of_layers(config: Mapping[str, Any] | None, way: str, size: int) -> float:
    """Return the part of all layers, and of the KV cache, that the rank with most of them holds."""
    layers = _number(config or {}, _LAYERS)
    return ceil(layers / size) / layers if way == PIPELINE and layers else 1 / size


def part_bytes(files: ModelFiles, share: float) -> int:
    """Compute the weights of one rank: its share of the layers; embeddings, norms and head whole."""
    if share == 1:
        return sum(header.data_bytes for header in loaded_headers(files).values())
    inside = whole = 0
    for header in loaded_headers(files).values():
        for name, tensor in header.tensors.items():
            start, end = tensor["data_offsets"]
            whole += end - start
            inside += end - start if _IN_LAYER.search(name) else 0
    return whole - inside + ceil(inside * share)


def _repeats(files: ModelFiles, package: str) -> bool:
    """Whether mlx-lm gives every rank a key-value head where there are more ranks than heads."""
    module = model_module(package, files.config or {})
    seen: set[str] = set()
    while module is not None and module not in seen:
        seen.add(module)
        source = _source(package, module) or ""
        if _REPEATS_KV in source:
            return True
        module = _parent(source)
    return False


def _parent(source: str) -> str | None:
    """The sibling module that a module's Model comes from, or is built on."""
    imported = {alias or "Model": module for module, alias in _IMPORTED.findall(source)}
    built_on = _PARENT.search(source)
    if built_on is None:
        return imported.get("Model")
    return built_on[1] or imported.get(built_on[2])


@lru_cache(maxsize=512)
def _source(package: str, module: str) -> str | None:
    try:
        with open(os.path.join(package, "models", f"{module}.py"), encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return None


def _number(config: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    nested = config.get("text_config")
    parts = (nested, config) if isinstance(nested, dict) else (config,)
    values = (part.get(key) for part in parts for key in keys)
    return next((value for value in values if type(value) is int and value > 0), None)
