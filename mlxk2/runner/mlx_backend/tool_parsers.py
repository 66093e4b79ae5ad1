"""mlx-lm's own parsers of tool calls, chosen as mlx-lm chooses them."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Callable

from mlxk2 import errors
from mlxk2.runner.tools import JSON_OBJECT, MISTRAL, ToolFormat

from .library import import_module

# Those whose arguments are JSON.
_SHAPES = {"json_tools": JSON_OBJECT, "longcat": JSON_OBJECT, "mistral": MISTRAL}


def tool_format(
    template: str | None, tokenizer_config: Mapping[str, Any], vocabulary: Callable[[], Mapping[str, int]]
) -> ToolFormat | None:
    """Return how a model writes tool calls, as its template or its vocabulary tells; None where nobody knows.

    Raises: DependencyMissing.
    """
    name = tokenizer_config.get("tool_parser_type")
    if name is None:
        choose = getattr(import_module("mlx_lm.tokenizer_utils"), "_infer_tool_parser", None)
        name = None if choose is None else choose(SimpleNamespace(chat_template=template, get_vocab=vocabulary))
    # What a model's files say is no module's name until it looks like one.
    if not isinstance(name, str) or not name.isidentifier():
        return None
    try:
        module = import_module(f"mlx_lm.tool_parsers.{name}")
    except errors.DependencyMissing:
        return None
    return ToolFormat(
        name=name,
        start=module.tool_call_start,
        end=module.tool_call_end or "",
        parse=lambda text, tools: module.parse_tool_call(text, list(tools)),
        shape=_SHAPES.get(name),
    )
