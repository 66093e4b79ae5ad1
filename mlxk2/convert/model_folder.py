"""A model folder becomes a changed copy: what is checked first, and which files go along beside the weights."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxk2.convert.change import DTYPE_BYTES, WeightChange
from mlxk2.errors import (
    DependencyMissing,
    IncompatibleModel,
    InvalidSource,
    ModelUnhealthy,
    UnsupportedFormat,
    UsageError,
)
from mlxk2.inspection.describe import inspect_model
from mlxk2.inspection.files import ModelFiles
from mlxk2.inspection.framework import MLX, PYTORCH
from mlxk2.inspection.runtime import NOT_INSTALLED, runtime_problem
from mlxk2.store.model_ref import CACHE, ModelRef
from mlxk2.store.shared_blobs import STORE_FOLDER

# Never code: what runs must come from an installed package.
_GOES_ALONG = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "preprocessor_config.json",
    "README.md",
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
    "NOTICE",
)
# What only code of the folder could use.
_CODE_KEYS = ("model_file", "auto_map")


@dataclass(frozen=True)
class FolderSource:
    """A sound model folder. `size_bytes`: what its files take; `along`: name and true path of what is copied as it is."""

    ref: ModelRef
    config: dict[str, Any]
    framework: str
    size_bytes: int
    parameters: int | None
    along: tuple[tuple[str, str], ...]

    @property
    def source_format(self) -> str:
        return "mlx" if self.framework == MLX else "safetensors"

    @property
    def is_quantized(self) -> bool:
        """Tell whether the config speaks of quantized weights, in whichever dialect."""
        return any(isinstance(self.config.get(key), dict) for key in ("quantization", "quantization_config"))


@dataclass(frozen=True)
class FolderJob:
    """A model folder and what is to become of it."""

    source: FolderSource
    change: WeightChange
    fast_start: bool

    @property
    def size_bytes(self) -> int:
        """Estimate the bytes of the weights; never less than what will be written, within headers."""
        parameters, change = self.source.parameters, self.change
        if parameters is None:
            return self.source.size_bytes
        plain_bits = 8 * DTYPE_BYTES[change.dtype or "float16"]
        if change.bits is not None:
            return int(parameters * (change.bits + 2 * plain_bits / change.group_size)) // 8
        return max(parameters * plain_bits // 8, 0 if change.dequantize else self.source.size_bytes)


def inspect_folder(ref: ModelRef) -> FolderSource:
    """Read a folder and refuse what cannot, or must not, be loaded.

    Raises: ModelUnhealthy, IncompatibleModel, UnsupportedFormat, DependencyMissing, InvalidSource.
    """
    inspection = inspect_model(ref)
    info, files = inspection.info, inspection.files
    if inspection.findings or info.health != "healthy":
        raise ModelUnhealthy(f"{ref.name} is not sound: {info.reason}", hint=f"mlxk2 health {ref.name} --verbose")
    if info.framework not in (MLX, PYTORCH) or not any(e.name.endswith(".safetensors") for e in files.entries):
        raise UnsupportedFormat(
            f"{ref.name} holds no safetensors weights", hint="convert takes GGUF files and folders of safetensors"
        )
    # Whatever framework the weights come from, mlx-lm is to load them.
    problem = runtime_problem(files, MLX)
    if problem == NOT_INSTALLED:
        raise DependencyMissing(problem, hint="pip install mlx-lm")
    if problem is not None:
        raise IncompatibleModel(f"{ref.name}: {problem}", hint="choose a model that the installed mlx-lm knows")
    return FolderSource(ref, files.config or {}, info.framework, info.size_bytes, info.parameters, tuple(_along(files)))


def only_gguf(ref: ModelRef) -> Path | None:
    """Find the GGUF file of a folder that holds nothing else to convert. Raises: UsageError where there are several."""
    entries = [entry for entry in ModelFiles.read(ref).entries if "/" not in entry.name]
    if any(entry.name.endswith(".safetensors") for entry in entries):
        return None
    files = [e for e in entries if e.name.lower().endswith(".gguf") and e.size_bytes is not None]
    if len(files) > 1:
        raise UsageError(
            f"{ref.name} holds {len(files)} GGUF files: {', '.join(entry.name for entry in files[:5])}",
            hint="name one: mlxk2 convert PATH/FILE",
        )
    return Path(files[0].path) if files else None


def copy_along(source: FolderSource, folder: Path, config: dict[str, Any]) -> None:
    """Write the config and copy the files beside the weights; links become files, code stays behind."""
    if "eos_token_id" in source.config:
        # mlx-lm overwrites the config's own ids with those of the generation config.
        config["eos_token_id"] = source.config["eos_token_id"]
    for key in ("_name_or_path", "vision_config", *_CODE_KEYS):
        config.pop(key, None)
    if "quantization" in config:
        config["quantization_config"] = config["quantization"]
    (folder / "config.json").write_text(json.dumps(config, indent=2, default=str) + "\n", encoding="utf-8")
    for name, path in source.along:
        shutil.copyfile(path, folder / name)


def _along(files: ModelFiles) -> Iterator[tuple[str, str]]:
    """List what is copied as it is. Raises: InvalidSource for a link that would bring in a file from elsewhere."""
    allowed = _own_places(files.ref)
    for name in _GOES_ALONG:
        entry = files.by_name.get(name)
        if entry is None or entry.size_bytes is None:
            continue
        path = os.path.realpath(entry.path)
        if not any(path.startswith(place + os.sep) for place in allowed):
            raise InvalidSource(
                f"{files.ref.name}: '{name}' is a link that leads out of the model",
                hint="put the file itself into the folder",
            )
        yield name, path


def _own_places(ref: ModelRef) -> tuple[str, ...]:
    """The folders whose files are the model's own: all of its repository and the shared blobs, where it is a cached one."""
    if ref.kind != CACHE:
        return (os.path.realpath(ref.path),)
    repository = ref.path.parent.parent
    return os.path.realpath(repository), os.path.realpath(repository.parent / STORE_FOLDER)
