"""Formats that mlx-lm has no parser for, told by what the template says."""

from __future__ import annotations

import json
import re
from typing import Any

from mlxk2.runner.harmony_marks import CALL, CALL_START, CHANNEL, MESSAGE

from .format import ToolFormat, Tools
from .json_call import JSON_OBJECT, CallShape

# The reasoning's splitter writes each call in one way; models that forget marks may write others into their answers.
# The name is taken whole, without a second try at its shorter beginnings, and what follows it up to the first mark.
_HARMONY_HEAD = re.compile(r"(?=([^\s<]+))\1[^{]*?" + re.escape(MESSAGE) + r"\s*(?=\S)")

# Llama 3 tells its model so; spaces, and how quotes are escaped, differ between templates.
_LLAMA_ORDER = '{"name":functionname,"parameters":'


def known_format(template: str | None) -> ToolFormat | None:
    """Return how a model with this template writes calls; None where nobody knows."""
    text = template or ""
    if all(mark in text for mark in ("functions.", CHANNEL, MESSAGE)):
        return HARMONY
    for known in _MARKED:
        if known.start in text and known.end in text:
            return known
    return LLAMA if _LLAMA_ORDER in re.sub(r"[\s\\]", "", text) else None


def _harmony_call(text: str, tools: Tools) -> dict[str, Any]:
    header, _, arguments = text.partition(MESSAGE)
    return {"name": header.partition("<")[0].strip(), "arguments": arguments.strip() or "{}"}


def _json_call(text: str, tools: Tools) -> Any:
    return json.loads(text)


HARMONY = ToolFormat("harmony", CALL_START, CALL, _harmony_call, CallShape(_HARMONY_HEAD, is_wrapped=False))
LLAMA = ToolFormat("llama", "", "", _json_call, JSON_OBJECT)
# Objects, or lists of them, between marks.
_MARKED = tuple(
    ToolFormat(name, f"<{name}>", f"</{name}>", _json_call, JSON_OBJECT) for name in ("tool_call", "TOOLCALL")
)
