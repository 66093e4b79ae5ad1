"""Model folders of the user's own, outside the cache: named by a path, or children of the workspace home."""

from __future__ import annotations

import os
from pathlib import Path

from mlxk2.store.hf_cache import NO_PATH
from mlxk2.store.model_ref import WORKSPACE, ModelRef

_MODEL_ENDINGS = (".safetensors", ".gguf", ".bin")


def is_path(text: str) -> bool:
    """Tell whether a model argument names a folder rather than a model of the cache."""
    return text in (".", "..", "~") or text.startswith(("./", "../", "/", "~"))


def from_path(text: str, home: Path) -> ModelRef:
    """Make the reference of the folder that the user typed; it keeps the typed text as its name."""
    path = home / text[2:] if text == "~" or text.startswith("~/") else Path(text)
    problem = None if os.path.isdir(path) else NO_PATH
    return ModelRef(text, path, None, WORKSPACE, problem)


def own_name(ref: ModelRef) -> str:
    """Return the last part of a folder's path as it was typed, links not followed."""
    return os.path.basename(os.path.abspath(ref.path))


def children(workspace_home: Path | None) -> tuple[ModelRef, ...]:
    """List the model folders directly below the workspace home, sorted by name; none without a home."""
    if workspace_home is None:
        return ()
    try:
        with os.scandir(workspace_home) as entries:
            found = [e for e in entries if not e.name.startswith(".") and _looks_like_model(e)]
    except OSError:
        return ()
    return tuple(ModelRef(e.name, Path(e.path), None, WORKSPACE) for e in sorted(found, key=lambda e: e.name))


def _looks_like_model(entry: os.DirEntry[str]) -> bool:
    try:
        if not entry.is_dir():
            return False
        names = os.listdir(entry.path)
    except OSError:
        return False
    return any(name == "config.json" or name.endswith(_MODEL_ENDINGS) for name in names)
