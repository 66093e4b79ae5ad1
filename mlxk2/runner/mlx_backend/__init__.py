"""The engine: the only package here that imports mlx and mlx-lm. Ids, numbers and plain values go in and come out.

Imported when an answer is due, never before: it brings MLX along.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlxk2 import errors

from .adapter import load_adapter
from .batch import Batch, RowStep, batch_obstacle
from .by_turns import ByTurns
from .device import bound_reuse, end_thread, memory_figures, recommended_memory_bytes, wire_memory
from .embedding import embed
from .engine import Engine, Step
from .kv_state import KVState, common_prefix
from .library import accepted, file_limit_kept, import_mlx_lm, translated
from .prefix_store import SHORTEST, PrefixStore
from .tool_parsers import tool_format

__all__ = [
    "SHORTEST",
    "Batch",
    "ByTurns",
    "Engine",
    "KVState",
    "PrefixStore",
    "RowStep",
    "Step",
    "batch_obstacle",
    "bound_reuse",
    "common_prefix",
    "embed",
    "end_thread",
    "file_limit_kept",
    "import_mlx_lm",
    "load",
    "load_tokenizer",
    "memory_figures",
    "recommended_memory_bytes",
    "render_by_code",
    "tool_format",
    "translated",
    "wire_memory",
]

_DAMAGED_HINT = "config.json and weights may not belong together: mlxk2 health MODEL --deep compares the files"


def load(
    model_dir: Path, *, adapter_dir: Path | None = None, draft_dir: Path | None = None, trusts_code: bool = False
) -> Engine:
    """Load the weights in `model_dir`, evaluated; with the LoRA weights of `adapter_dir`, and a draft model beside them.

    Code in these folders is executed with `trusts_code` only.

    Raises: IncompatibleModel with mlx-lm's words.
    """
    mlx_lm = import_mlx_lm()
    model = _load_model(mlx_lm, model_dir, trusts_code)
    if adapter_dir is not None:
        load_adapter(model, adapter_dir)
    draft = None if draft_dir is None else _load_model(mlx_lm, draft_dir, trusts_code)
    return Engine(model, mlx_lm, draft)


def _load_model(mlx_lm: Any, model_dir: Path, trusts_code: bool) -> Any:
    load_model = mlx_lm.utils.load_model
    options = accepted(load_model, lazy=False, strict=True, trust_remote_code=trusts_code)
    with translated("mlx-lm cannot load the model", errors.IncompatibleModel, _DAMAGED_HINT):
        return load_model(model_dir, **options)[0]


def load_tokenizer(model_dir: Path, *, trusts_code: bool = False) -> Any:
    """Return mlx-lm's tokenizer wrapper; needs the real transformers. Code in the folder runs with `trusts_code` only.

    Raises: IncompatibleModel with the library's words.
    """
    mlx_lm = import_mlx_lm()
    with translated("the tokenizer cannot be loaded", errors.IncompatibleModel):
        return mlx_lm.utils.load_tokenizer(model_dir, tokenizer_config_extra={"trust_remote_code": trusts_code})


def render_by_code(tokenizer: Any, chat: list[dict[str, Any]], options: dict[str, Any]) -> str:
    """Return the conversation as text, by mlx-lm's own code for templates that are no text.

    Raises: GenerationFailed with the library's words.
    """
    with translated("the model's chat template failed", errors.GenerationFailed):
        return str(tokenizer.apply_chat_template(chat, tokenize=False, **options))
