"""A model folder becomes a changed copy: what is checked first, and which files go along beside the weights."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxk2.errors import IncompatibleModel, ModelUnhealthy, UnsupportedFormat, UsageError
from mlxk2.inspection.describe import Inspection, inspect_model
from mlxk2.store.model_ref import ModelRef

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
_CODE_KEYS = ("model_file", "auto_map")
_FLOAT_BITS = 16


@dataclass(frozen=True)
class FolderSource:
    """A sound model folder. `size_bytes`: what its files take."""

    ref: ModelRef
    path: Path
    config: dict[str, Any]
    framework: str
    size_bytes: int
    parameters: int | None

    @property
    def source_format(self) -> str:
        return "mlx" if self.framework == "MLX" else "safetensors"

    @property
    def quantization(self) -> dict[str, Any] | None:
        """What the config says about quantized weights, in whichever dialect."""
        for key in ("quantization", "quantization_config"):
            if isinstance(self.config.get(key), dict):
                described: dict[str, Any] = self.config[key]
                return described
        return None

    def size_with(self, bits: int | None, group_size: int, dtype: str | None, *, dequantize: bool) -> int:
        """Estimate the bytes of the weights after a change; never less than what will be written, within headers."""
        if self.parameters is None:
            return self.size_bytes
        plain = 32 if dtype == "float32" else _FLOAT_BITS
        if bits is not None:
            return int(self.parameters * (bits + 2 * plain / group_size)) // 8
        return max(self.parameters * plain // 8, 0 if dequantize else self.size_bytes)


def inspect_folder(ref: ModelRef) -> FolderSource:
    """Read a folder and refuse what cannot, or must not, be loaded.

    Raises: ModelUnhealthy, IncompatibleModel, UnsupportedFormat.
    """
    inspection = inspect_model(ref)
    info = inspection.info
    if inspection.findings or info.health != "healthy":
        raise ModelUnhealthy(
            f"{ref.name} is not sound: {info.reason}", hint=f"mlxk2 health {ref.name} --verbose tells more"
        )
    config = inspection.files.config or {}
    code = [key for key in _CODE_KEYS if config.get(key)]
    if "model_file" in code:
        raise IncompatibleModel(
            f"{ref.name} wants to run code of its own ('model_file')", hint="choose a model that mlx-lm itself knows"
        )
    if info.framework not in ("MLX", "PyTorch") or not _has_safetensors(inspection):
        raise UnsupportedFormat(
            f"{ref.name} holds no safetensors weights", hint="convert takes GGUF files and folders of safetensors"
        )
    return FolderSource(ref, ref.path, config, info.framework, info.size_bytes, info.parameters)


def only_gguf(ref: ModelRef) -> Path | None:
    """Find the GGUF file of a folder that holds nothing else to convert. Raises: UsageError where there are several."""
    names = sorted(os.listdir(ref.path)) if ref.problem is None and ref.path.is_dir() else []
    if any(name.endswith(".safetensors") for name in names):
        return None
    files = [name for name in names if name.lower().endswith(".gguf")]
    if len(files) > 1:
        raise UsageError(
            f"{ref.name} holds {len(files)} GGUF files: {', '.join(files[:5])}",
            hint="name one: mlxk2 convert PATH/FILE",
        )
    return ref.path / files[0] if files else None


def copy_along(source: Path, folder: Path, config: dict[str, Any], original: dict[str, Any]) -> None:
    """Write the config and copy the files beside the weights; links become files, code stays behind."""
    if "eos_token_id" in original:
        # mlx-lm overwrites the config's own ids with those of the generation config.
        config["eos_token_id"] = original["eos_token_id"]
    for key in ("_name_or_path", "vision_config", *_CODE_KEYS):
        config.pop(key, None)
    if "quantization" in config:
        config["quantization_config"] = config["quantization"]
    (folder / "config.json").write_text(json.dumps(config, indent=2, default=str) + "\n", encoding="utf-8")
    for name in _GOES_ALONG:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def _has_safetensors(inspection: Inspection) -> bool:
    return any(entry.name.endswith(".safetensors") for entry in inspection.files.entries)
