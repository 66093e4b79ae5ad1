"""Lets mlx-lm be imported without transformers and huggingface_hub: seconds less until the first token.

mlx-lm's model and generation code needs those two only to load tokenizers and to download, which `run` does without
mlx-lm when the folder has a `tokenizer.json`. While the stand-ins are installed, mlx-lm's modules see empty classes
in their place. Knows nothing of models.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_STOOD_IN = ("huggingface_hub", "transformers", "transformers.tokenization_utils_base")

_MARK = "_mlxk2_stand_ins"


class StandIns:
    """The installed stand-ins; `remove` takes them and everything that was imported on top of them away again."""

    def __init__(self, saved: dict[str, ModuleType]) -> None:
        self._saved = saved
        self._active = True

    def remove(self) -> None:
        """Leave `sys.modules` as if mlx-lm had never been imported; what was imported stays usable where it is held."""
        if not self._active:
            return
        self._active = False
        for name in [name for name in sys.modules if name == "mlx_lm" or name.startswith("mlx_lm.")]:
            del sys.modules[name]
        for name in _STOOD_IN:
            sys.modules.pop(name, None)
        sys.modules.update(self._saved)


def install() -> StandIns | None:
    """Install the stand-ins, or return None where mlx-lm is already imported or missing."""
    if "mlx_lm" in sys.modules:
        return None
    spec = importlib.util.find_spec("mlx_lm")
    if spec is None or not spec.submodule_search_locations:
        return None
    # Real ones that somebody imported before are kept: they cost nothing any more.
    if "transformers" in sys.modules:
        return None
    saved = {name: module for name, module in sys.modules.items() if name in _STOOD_IN}
    sys.modules["mlx_lm"] = _package_without_init(spec)
    if "huggingface_hub" not in saved:
        sys.modules["huggingface_hub"] = _module("huggingface_hub", snapshot_download=None)
    sys.modules.update(_transformers())
    installed = StandIns(saved)
    sys.modules["mlx_lm"].__dict__[_MARK] = installed
    return installed


def withdraw() -> bool:
    """Remove the stand-ins, whoever installed them; return whether there were any."""
    installed = getattr(sys.modules.get("mlx_lm"), _MARK, None)
    if not isinstance(installed, StandIns):
        return False
    installed.remove()
    return True


def _package_without_init(spec: ModuleSpec) -> ModuleType:
    """The mlx_lm package as a bare name space: its `__init__` imports everything."""
    package = ModuleType("mlx_lm")
    package.__path__ = list(spec.submodule_search_locations or ())
    package.__spec__ = spec
    return package


def _transformers() -> dict[str, ModuleType]:
    root = type("PreTrainedTokenizerBase", (), {"apply_chat_template": None})
    auto = type("AutoTokenizer", (), {"register": staticmethod(lambda *args, **kwargs: None)})
    return {
        "transformers": _module(
            "transformers",
            AutoTokenizer=auto,
            PreTrainedTokenizer=type("PreTrainedTokenizer", (root,), {}),
            PreTrainedTokenizerFast=type("PreTrainedTokenizerFast", (root,), {}),
        ),
        "transformers.tokenization_utils_base": _module(
            "transformers.tokenization_utils_base", PreTrainedTokenizerBase=root
        ),
    }


def _module(name: str, **attributes: Any) -> ModuleType:
    module = ModuleType(name)
    module.__dict__.update(attributes)
    return module
