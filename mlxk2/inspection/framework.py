"""Which framework a model is for: an ordered table, the first rule that fits decides."""

from __future__ import annotations

from collections.abc import Callable

from mlxk2.inspection.files import ModelFiles
from mlxk2.inspection.safetensors import SafetensorsHeader

MLX = "MLX"
GGUF = "GGUF"
PYTORCH = "PyTorch"
UNKNOWN = "Unknown"

_MLX_ORGANISATION = "mlx-community/"


def detect_framework(files: ModelFiles) -> str:
    """Name the framework: MLX, GGUF, PyTorch or Unknown."""
    return next((name for name, fits in _RULES if fits(files)), UNKNOWN)


def _has_mlx_quantization(files: ModelFiles) -> bool:
    return files.config is not None and isinstance(files.config.get("quantization"), dict)


def _is_of_mlx_organisation(files: ModelFiles) -> bool:
    return files.ref.name.startswith(_MLX_ORGANISATION)


def _card_says_mlx(files: ModelFiles) -> bool:
    card = files.front_matter
    return card.library_name in {"mlx", "mlx-lm"} or "mlx" in card.tags or "mlx-lm" in card.tags


def _weights_say_mlx(files: ModelFiles) -> bool:
    headers = (h for h in files.headers.values() if isinstance(h, SafetensorsHeader))
    return any(header.metadata.get("format") == "mlx" for header in headers)


def _has_gguf(files: ModelFiles) -> bool:
    return any(entry.name.lower().endswith(".gguf") for entry in files.entries)


def _has_pytorch(files: ModelFiles) -> bool:
    return any(_is_pytorch(entry.name.rsplit("/", 1)[-1]) for entry in files.entries)


def _is_pytorch(name: str) -> bool:
    return name.endswith(".safetensors") or (name.startswith("pytorch_model") and name.endswith(".bin"))


_RULES: tuple[tuple[str, Callable[[ModelFiles], bool]], ...] = (
    (MLX, _has_mlx_quantization),
    (MLX, _is_of_mlx_organisation),
    (MLX, _card_says_mlx),
    (MLX, _weights_say_mlx),
    (GGUF, _has_gguf),
    (PYTORCH, _has_pytorch),
)
