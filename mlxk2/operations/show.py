"""Show one model: what it is, its files, its configuration, the memory that it will need."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

from mlxk2.envelope import ABSENT
from mlxk2.errors import ModelNotCached, ShowFailed
from mlxk2.events import Event
from mlxk2.inspection.describe import Inspection, ModelInfo, inspect_model
from mlxk2.inspection.memory import MemoryNeed, memory_need
from mlxk2.inspection.origin import OriginState, check_origin
from mlxk2.settings import Settings
from mlxk2.store.resolve import find_model
from mlxk2.units import format_size

_CONFIG_FIELDS = {
    "vocab_size": ("vocab_size", "n_vocab"),
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "num_attention_heads": ("num_attention_heads", "n_head"),
    "num_hidden_layers": ("num_hidden_layers", "n_layer", "n_layers"),
}
_WEIGHT_ENDINGS = (".safetensors", ".gguf", ".bin", ".npz", ".pt", ".pth")
_MAX_CONFIG_DEPTH = 100


@dataclass(frozen=True)
class ShownFile:
    name: str
    size: str
    size_bytes: int
    type: str


@dataclass(frozen=True)
class ShowResult:
    model: ModelInfo
    metadata: Mapping[str, Any] | None
    files: Any = ABSENT
    config: Any = ABSENT
    memory: MemoryNeed | Any = ABSENT
    path: Any = ABSENT
    origin: OriginState | Any = ABSENT


def show_model(
    text: str, settings: Settings, *, part: str = "metadata", with_path: bool = False
) -> Generator[Event, None, ShowResult]:
    """Describe the model that `text` means; `part` is "metadata", "files" or "config". Files of a clone may be hashed.

    Raises: ModelNotFound, AmbiguousMatch, HashNotFound, ModelNotCached, ShowFailed.
    """
    ref = find_model(text, settings)
    if ref.problem is not None:
        raise ModelNotCached(
            f"{ref.name} has a folder in the cache, but no files ({ref.problem})",
            hint=f"mlxk2 rm {ref.name}",
        )
    inspection = inspect_model(ref)
    # Lists of files and configurations are looked up often; only the metadata tell where a clone stands.
    origin = (yield from check_origin(inspection.files)) if part == "metadata" else None
    return ShowResult(
        model=inspection.info,
        metadata=_metadata(inspection) if part == "metadata" else None,
        files=_files(inspection) if part == "files" else ABSENT,
        config=_config(inspection) if part == "config" else ABSENT,
        memory=memory_need(inspection.files),
        path=os.path.abspath(ref.path) if with_path else ABSENT,
        origin=ABSENT if origin is None else origin.state,
    )


def _metadata(inspection: Inspection) -> dict[str, Any]:
    """Gather the figures that people compare models by; those that the config does not give are left out."""
    config = inspection.files.config or {}
    nested = config.get("text_config")
    sources = [config, nested] if isinstance(nested, dict) else [config]
    found: dict[str, Any] = {}
    if isinstance(config.get("model_type"), str):
        found["model_type"] = config["model_type"]
    names = config.get("architectures")
    if isinstance(names, list) and names and isinstance(names[0], str):
        found["architecture"] = names[0]
    if inspection.info.quantization is not None:
        found["quantization"] = f"{inspection.info.quantization.bits}bit"
    if inspection.info.context_length is not None:
        found["context_length"] = inspection.info.context_length
    for field, keys in _CONFIG_FIELDS.items():
        values = (source.get(key) for source in sources for key in keys)
        number = next((v for v in values if type(v) is int and v >= 0), None)
        if number is not None:
            found[field] = number
    return found


def _files(inspection: Inspection) -> tuple[ShownFile, ...]:
    shown = []
    for entry in inspection.files.entries:
        size = entry.size_bytes or 0
        shown.append(ShownFile(entry.name, format_size(size), size, _file_type(entry.name)))
    return tuple(sorted(shown, key=lambda file: file.name))


def _file_type(name: str) -> str:
    own = name.rsplit("/", 1)[-1].lower()
    if own.endswith(_WEIGHT_ENDINGS):
        return "weights"
    if own.startswith(("tokenizer", "vocab", "merges", "special_tokens", "added_tokens", "chat_template")):
        return "tokenizer"
    if own.startswith("readme"):
        return "readme"
    return "config" if own.endswith(".json") else "other"


def _config(inspection: Inspection) -> dict[str, Any]:
    config = inspection.files.config
    if config is None:
        raise ShowFailed(
            f"{inspection.ref.name}: {inspection.files.config_problem}", hint=f"mlxk2 health {inspection.ref.name}"
        )
    if _depth(config) > _MAX_CONFIG_DEPTH:
        raise ShowFailed(f"{inspection.ref.name}: config.json is nested more than {_MAX_CONFIG_DEPTH} levels deep")
    return config


def _depth(value: Any) -> int:
    """Measure how deep a JSON value nests, without recursion."""
    depth, level = 0, [value]
    while level and depth <= _MAX_CONFIG_DEPTH:
        depth += 1
        inner = [list(v.values()) if isinstance(v, dict) else v for v in level if isinstance(v, (dict, list))]
        level = [item for items in inner for item in items]
    return depth
