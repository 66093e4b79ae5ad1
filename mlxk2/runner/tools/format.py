"""How one model writes its tool calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable

from .json_call import CallShape

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
    """`start` and `end` are the texts around a call; without `end` it goes on to the end of the answer, without `start` it is
    the whole answer.

    `parse` turns what stands between them into a call, or several. `shape`: the arguments are JSON, and can be told
    before they are complete.
    """

    name: str
    start: str
    end: str
    parse: Callable[[str, Tools], Any]
    shape: CallShape | None = None
