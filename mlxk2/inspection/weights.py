"""Which files of a folder are weights, which of them are loaded, and how many parameters they hold."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from mlxk2.inspection.files import FileEntry, ModelFiles
from mlxk2.inspection.quantization import layer_setting
from mlxk2.inspection.safetensors import SafetensorsHeader

SAFETENSORS_INDEX = "model.safetensors.index.json"
PYTORCH_INDEX = "pytorch_model.bin.index.json"

_ENDINGS = (".safetensors", ".gguf", ".npz", ".pth", ".pt")
_NOT_THE_MODEL = ("adapter", "optimizer", "scheduler", "training_args", "rng_state")
_SHARD = re.compile(r"(.+)-(\d{4,6})-of-(\d{4,6})\.(safetensors|bin|gguf)")
_SIBLINGS = ("scales", "biases", "global_scale")
_GPTQ_EXTRAS = (".qzeros", ".g_idx")


class Shard(NamedTuple):
    """A file named `<group>-<number>-of-<total>.<ending>`."""

    entry: FileEntry
    group: str
    number: int
    total: int


@lru_cache(maxsize=4096)
def is_weight(name: str) -> bool:
    """Tell by its name whether a file holds a model's weights."""
    own = name.rsplit("/", 1)[-1].lower()
    if own.startswith(_NOT_THE_MODEL):
        return False
    return own.endswith(_ENDINGS) or (own.endswith(".bin") and own.startswith(("pytorch_model", "model", "weights")))


def weight_entries(files: ModelFiles) -> list[FileEntry]:
    """All weight files, dangling links included, those of subfolders too."""
    return [entry for entry in files.entries if is_weight(entry.name)]


def has_loadable_safetensors(files: ModelFiles) -> bool:
    """Tell whether there are top-level files with the names that mlx-lm loads."""
    return any(_is_loaded(entry.name) for entry in files.entries)


def find_shards(files: ModelFiles) -> Iterator[Shard]:
    """Top-level files that are numbered parts of a whole."""
    for entry in files.entries:
        if "-of-" in entry.name and "/" not in entry.name:
            match = _SHARD.fullmatch(entry.name)
            if match and is_weight(entry.name):
                group = f"{match[1]}.{match[4]}"
                yield Shard(entry, group, int(match[2]), int(match[3]))


def loaded_headers(files: ModelFiles) -> dict[str, SafetensorsHeader]:
    """Sound headers of the files that make up the model; a second copy of it in other files does not count."""
    sound = {name: header for name, header in files.headers.items() if isinstance(header, SafetensorsHeader)}
    for chosen in (_is_loaded, _is_top_level):
        part = {name: header for name, header in sound.items() if chosen(name)}
        if part:
            return part
    return sound


def count_parameters(files: ModelFiles) -> int | None:
    """Count the logical parameters: packed weights by what they stand for, scales and biases of packing not at all."""
    headers = loaded_headers(files)
    if not headers:
        return None
    if not any(header.may_be_packed for header in headers.values()):
        return sum(header.elements for header in headers.values())
    tensors: dict[str, Mapping[str, Any]] = {}
    for header in headers.values():
        tensors.update(header.tensors)
    return sum(_logical_size(name, tensors, files.config or {}) for name in tensors)


def _is_loaded(name: str) -> bool:
    return name.startswith("model") and name.endswith(".safetensors") and "/" not in name


def _is_top_level(name: str) -> bool:
    return "/" not in name and not name.startswith(_NOT_THE_MODEL)


def _logical_size(name: str, tensors: Mapping[str, Mapping[str, Any]], config: Mapping[str, Any]) -> int:
    stem, _, kind = name.rpartition(".")
    stored = _product(tensors[name]["shape"])
    if kind in _SIBLINGS and (f"{stem}.weight" in tensors or f"{stem}.qweight" in tensors):
        return 0
    if name.endswith(_GPTQ_EXTRAS) and f"{stem}.qweight" in tensors:
        return 0
    dtype = tensors[name]["dtype"]
    if kind == "qweight" and dtype in {"I32", "U32"}:
        return stored * 32 // (layer_setting(config, stem, "bits") or 4)
    scales = tensors.get(f"{stem}.scales")
    if kind != "weight" or scales is None or dtype not in {"U32", "U8"}:
        return stored
    group_size = layer_setting(config, stem, "group_size")
    if group_size is not None:
        return _product(scales["shape"]) * group_size
    bits = layer_setting(config, stem, "bits")
    return stored if bits is None else stored * (32 if dtype == "U32" else 8) // bits


def _product(shape: list[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
