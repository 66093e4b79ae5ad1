"""What is told of tool calls while they are generated, and what a parser made of a whole one."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Union

from .json_prefix import is_json


@dataclass(frozen=True)
class CallPart:
    """A part of the call number `index`: the first brings `call_id` and `name`, then arguments come, as JSON text."""

    index: int
    call_id: str | None
    name: str | None
    arguments: str


@dataclass(frozen=True)
class CallLost:
    """The call number `index`, of which parts were told, is none; `text` is all of it as it was said."""

    index: int
    text: str


Told = Union[str, CallPart, CallLost]


class ParsedCall(NamedTuple):
    """A whole call; `id` is None where the model gave it none."""

    name: str
    arguments: str
    id: str | None = None


def new_call_id() -> str:
    """Return an id for a call that has none."""
    return f"call_{uuid.uuid4().hex[:24]}"


def parsed_calls(value: Any) -> tuple[ParsedCall, ...]:
    """Return what a parser made of a text: one call, or several.

    Raises: ValueError, TypeError where it is none.
    """
    calls = value if isinstance(value, (list, tuple)) else (value,)
    if not calls:
        raise ValueError("there is no call")
    return tuple(map(_parsed, calls))


def _parsed(call: Any) -> ParsedCall:
    if not isinstance(call, Mapping):
        raise ValueError("a call is no object")
    name, arguments, own_id = call.get("name"), call.get("arguments", call.get("parameters", {})), call.get("id")
    if not isinstance(name, str) or not name:
        raise ValueError("a call has no name")
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    if not isinstance(arguments, Mapping):
        raise ValueError("the arguments are no object")
    text = json.dumps(dict(arguments), ensure_ascii=False, allow_nan=False)
    if not is_json(text):
        raise ValueError("the arguments are nested too deeply")
    return ParsedCall(name, text, own_id if isinstance(own_id, str) and own_id else None)
