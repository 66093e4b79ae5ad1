"""Can the installed mlx-lm load a model? Decided from its source files: neither mlx nor mlx-lm is imported."""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from mlxk2.inspection.files import ModelFiles
from mlxk2.inspection.framework import MLX
from mlxk2.inspection.weights import has_loadable_safetensors
from mlxk2.text import one_line

NOT_INSTALLED = "mlx-lm is not installed"
NO_MODEL_TYPE = "config.json missing model_type field"
LEGACY_FORMAT = "Legacy format not supported by mlx-lm"

_MOST_CHARACTERS = 80
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-]+")
_DEFINES = r"(?m)^(?:class {0}\b|{0}\s*=|(?:from\b.*\bimport\b|import\b)[^#\n]*\b{0}\b)"
_DEFINES_MODEL = tuple(re.compile(_DEFINES.format(name)) for name in ("Model", "ModelArgs"))
_IMPORT_IN_BRACKETS = re.compile(r"(?m)^from\s+\S+\s+import\s*\(([^)]*)\)")
_NEEDED_PACKAGES = {"olmo": "hf_olmo"}

Tables = tuple[Mapping[str, str], Mapping[tuple[str, str], str]]


def runtime_problem(files: ModelFiles, framework: str, *, trusts_code: bool = False) -> str | None:
    """Say why mlx-lm cannot load a sound model, in the contract's words; None if it can.

    With `trusts_code` a model may need code from its folder.
    """
    if framework != MLX:
        return f"Incompatible: {framework}"
    code = custom_code(files)
    if code is not None and not trusts_code:
        return f"Needs code of its own, which is never executed ({code})"
    config = files.config or {}
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        return NO_MODEL_TYPE
    package = find_mlx_lm()
    if package is None:
        return NOT_INSTALLED
    if code == "model_file":
        problem = _obstacle_to_code(files, package)
        if problem is not None:
            return problem
    elif not supports(package, model_type, config.get("architectures")):
        return f"model_type '{one_line(model_type[:_MOST_CHARACTERS])}' not supported by mlx-lm"
    return None if has_loadable_safetensors(files) else LEGACY_FORMAT


def _obstacle_to_code(files: ModelFiles, package: str) -> str | None:
    """Say why mlx-lm cannot load a model by the code that its config names, which must be in its folder."""
    if '"model_file"' not in (_source(os.path.join(package, "utils.py")) or ""):
        return "the installed mlx-lm is too old to load a model by code of its own (model_file)"
    name = (files.config or {}).get("model_file")
    if not isinstance(name, str) or not files.has(name):
        return "config.json names a model_file that is not in the folder"
    return None


def custom_code(files: ModelFiles) -> str | None:
    """Name the key that makes this model impossible to load without code from its folder; None if it needs none.

    `model_file` always does. `auto_map` alone does not: many models that mlx-lm supports carry it, and its code is
    simply never executed; only a tokenizer that exists as nothing but code needs it.
    """
    if (files.config or {}).get("model_file") is not None:
        return "model_file"
    plain = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
    if not any(files.has(name) for name in plain) and files.tokenizer_config.get("auto_map"):
        return "auto_map"
    return None


def supports(package: str, model_type: str, architectures: Any = None) -> bool:
    """Tell whether the mlx-lm in the folder `package` has a model class for this config."""
    return _defines_model(package, _remapped(package, model_type, architectures))


def model_module(package: str, config: Mapping[str, Any]) -> str | None:
    """Name the module of mlx-lm that this config's model comes from, whether it is there or not."""
    model_type = config.get("model_type")
    return _remapped(package, model_type, config.get("architectures")) if isinstance(model_type, str) else None


def find_mlx_lm() -> str | None:
    """Find the folder that `import mlx_lm` would load, without importing it; None where it is not installed."""
    return _find_mlx_lm(tuple(sys.path))


@lru_cache(maxsize=8)
def _find_mlx_lm(search_path: tuple[str, ...]) -> str | None:
    for folder in search_path:
        package = os.path.join(folder or ".", "mlx_lm")
        if os.path.isfile(os.path.join(package, "utils.py")):
            return package
    return _find_by_finders()


def _find_by_finders() -> str | None:
    """Ask the import system itself; an editable installation is known to nobody else."""
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        spec = find("mlx_lm", None) if find is not None else None
        places = getattr(spec, "submodule_search_locations", None)
        for place in places or ():
            if os.path.isfile(os.path.join(place, "utils.py")):
                return str(place)
    return None


def _remapped(package: str, model_type: str, architectures: Any) -> str:
    by_type, by_architecture = _tables(package)
    names = [architectures] if isinstance(architectures, str) else architectures
    for name in names if isinstance(names, list) else ():
        if isinstance(name, str) and (model_type, name) in by_architecture:
            return by_architecture[model_type, name]
    return by_type.get(model_type, model_type)


@lru_cache(maxsize=8)
def _tables(package: str) -> Tables:
    """Read mlx-lm's tables of other names; older releases have only the first one."""
    source = _source(os.path.join(package, "utils.py")) or ""
    return _table(source, "MODEL_REMAPPING"), _table(source, "MODEL_ARCHITECTURE_REMAPPING")


def _table(source: str, name: str) -> dict[Any, Any]:
    """Evaluate one literal assignment; only its own lines are parsed, which is twenty times faster than the file."""
    start = re.search(rf"(?m)^{name}\b[^=\n]*=\s*", source)
    if start is None:
        return {}
    end = source.find("\n}", start.end())
    first_line = source[start.end() : source.find("\n", start.end())]
    text = first_line if first_line.rstrip().endswith("}") else source[start.end() : end + 2]
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {}
    return value if isinstance(value, dict) else {}


@lru_cache(maxsize=512)
def _defines_model(package: str, module: str) -> bool:
    if not _PLAIN_NAME.fullmatch(module):
        return False
    needed = _NEEDED_PACKAGES.get(module)
    if needed is not None and not any(os.path.isdir(os.path.join(folder, needed)) for folder in sys.path):
        return False
    models = os.path.join(package, "models")
    source = _source(os.path.join(models, f"{module}.py")) or _source(os.path.join(models, module, "__init__.py"))
    if source is None:
        return False
    imported = " ".join(_IMPORT_IN_BRACKETS.findall(source))
    return all(
        pattern.search(source) is not None or re.search(rf"\b{name}\b", imported) is not None
        for pattern, name in zip(_DEFINES_MODEL, ("Model", "ModelArgs"))
    )


def _source(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return None
