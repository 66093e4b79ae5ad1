"""How an embedding model makes one vector of a text, as its files say. Knows no weights."""

from __future__ import annotations

from mlxk2.errors import IncompatibleModel
from mlxk2.inspection.files import ModelFiles

_POOLING_FILE = "1_Pooling/config.json"
_HINT = "use a model of the kind of Qwen3-Embedding"


def check_pooling(files: ModelFiles) -> None:
    """Do nothing where the last token's state is the vector, or the files do not say. Raises: IncompatibleModel."""
    config = files.json(_POOLING_FILE)
    if isinstance(config, dict) and config.get("pooling_mode_lasttoken") is not True:
        raise IncompatibleModel("the model pools its tokens in another way than by the last one", hint=_HINT)
    modules = files.json("modules.json")
    kinds = (
        [str(part.get("type", "")) for part in modules if isinstance(part, dict)] if isinstance(modules, list) else []
    )
    if any(kind.endswith("Dense") for kind in kinds):
        raise IncompatibleModel("the model has layers behind the pooling, which are not supported", hint=_HINT)
