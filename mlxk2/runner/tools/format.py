"""How one model writes its tool calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable

# Parsers are given text that a model made, and raise whatever comes of it.
PARSER_FAILURES = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)

Tools = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class ToolFormat:
    """`start` and `end` are the texts around a call; without `end` it goes on to the end of the answer.

    `parse` turns what stands between them into a call, or several. `is_json`: it is a JSON object with a name and
    arguments, in which arguments can be told before they are complete.
    """

    name: str
    start: str
    end: str
    parse: Callable[[str, Tools], Any]
    is_json: bool = False
