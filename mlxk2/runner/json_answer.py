"""Reads the JSON that a model wrote, strictly, and spells it the way its readers understand it. Knows no schema."""

from __future__ import annotations

import json
import math
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn


def parse(text: str) -> Any:
    """Return the value; numbers are those that every reader of JSON can hold.

    Raises: ValueError saying what is wrong.
    """
    return _loaded(text, parse_float=finite)


def plain_spelling(text: str) -> str:
    """Return the same value without needless escapes, a repeated key once, and decimals as a float rounds them.

    What a schema says of the text need not hold for the value: "\\u0061" is the key "a", and 0.99999999999999999 is 1.
    Text that is spelled so already comes back as it is, numbers included.

    Raises: ValueError saying what is wrong.
    """
    value = _loaded(text, parse_float=_rounded, parse_int=_Number)
    try:
        return _spelled(value)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


class _Number(str):
    """A number as it is written."""


def _loaded(text: str, **hooks: Any) -> Any:
    try:
        return json.loads(text, parse_constant=no_constant, **hooks)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def no_constant(name: str) -> NoReturn:
    """Refuse NaN and Infinity, which Python reads and JSON has not. Raises: ValueError."""
    raise ValueError(f"{name} is no JSON")


def finite(literal: str) -> float:
    """Read a decimal. Raises: ValueError where no reader could hold it."""
    value = float(literal)
    if not math.isfinite(value):
        raise ValueError(f"the number {literal[:30]} is too large")
    return value


def _rounded(literal: str) -> _Number:
    rounded = Decimal(repr(finite(literal)))
    try:
        is_exact = rounded == Decimal(literal)
    except InvalidOperation:  # an exponent of twenty digits
        is_exact = False
    return _Number(literal if is_exact else format(rounded, "f"))


def _spelled(value: Any) -> str:
    if isinstance(value, _Number):
        return value
    if isinstance(value, dict):
        return "{" + ",".join(f"{_quoted(key)}:{_spelled(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_spelled, value)) + "]"
    # A grammar takes DEL for a control character, which JSON does not.
    return _quoted(value).replace("\x7f", "\\u007f") if isinstance(value, str) else json.dumps(value)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
