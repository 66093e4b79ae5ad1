"""The one place that turns a typed result or an error into the four-key answer, and checks it before it goes out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib import import_module
from math import isfinite
from typing import Any

from mlxk2.errors import InternalError, MlxkError
from mlxk2.schema.invalid import JsonSchemaValueException

Payload = dict[str, Any]

# The commands that have an answer of their own in the schema; everything else answers as "none".
COMMANDS = (
    "list",
    "show",
    "health",
    "pull",
    "rm",
    "version",
    "run",
    "convert",
    "clone",
    "push",
    "serve",
    "ps",
    "schema",
)


# What some readers take for the end of a line, besides what JSON escapes in any case.
_LINE_ENDS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}


class _Absent:
    """Marks a field that does not appear in the answer; None appears as null."""

    def __repr__(self) -> str:
        return "ABSENT"

    def __reduce__(self) -> str:
        # There is one, in another process too.
        return "ABSENT"


ABSENT: Any = _Absent()


def success(command: str | None, result: Any) -> Payload:
    """Wrap a result, which is a frozen dataclass or a mapping. Raises: InternalError if it breaks the schema."""
    return _checked({"status": "success", "command": command, "data": to_payload(result), "error": None})


def failure(command: str | None, error: MlxkError) -> Payload:
    """Wrap an error; its partial payload is kept where the error carries one."""
    parts = {"type": error.type, "message": error.message, "hint": error.hint, "detail": error.detail}
    body = {key: to_payload(value) for key, value in parts.items() if value is not None}
    if error.retryable:
        body["retryable"] = True
    body.update(to_payload(error.extra))
    known = command if command in COMMANDS else None
    return _checked({"status": "error", "command": known, "data": to_payload(error.data), "error": body})


def to_json(envelope: Payload, *, one_line: bool = False) -> str:
    """Write an answer as the contract wants it: two-space indent, text that is UTF-8 (half a surrogate pair is not)."""
    text = json.dumps(envelope, indent=None if one_line else 2, ensure_ascii=False)
    if one_line:
        text = text.translate(_LINE_ENDS)
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def to_payload(value: Any) -> Any:
    """Turn frozen dataclasses, named tuples, mappings and tuples into plain JSON values; ABSENT fields are left out."""
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        return value if isfinite(value) else None  # JSON has no NaN and no Infinity
    fields = _fields(value)
    if fields is not None:
        return {str(key): to_payload(item) for key, item in fields if item is not ABSENT}
    if isinstance(value, (tuple, list)):
        return [to_payload(item) for item in value]
    raise InternalError(f"a {type(value).__name__} cannot be part of an answer")


def _fields(value: Any) -> Iterable[tuple[Any, Any]] | None:
    """Name and value pairs of anything that becomes a JSON object; None for everything else."""
    if isinstance(value, Mapping):
        return value.items()
    if hasattr(value, "__dataclass_fields__"):
        return list(vars(value).items())
    if hasattr(value, "_fields"):
        return zip(value._fields, value)
    return None


def _checked(envelope: Payload) -> Payload:
    validator = import_module(f"mlxk2.schema.compiled.{envelope['command'] or 'none'}")
    try:
        validator.validate(envelope)
    except JsonSchemaValueException as broken:
        raise InternalError(f"the answer of '{envelope['command']}' breaks the schema: {broken}") from broken
    return envelope
