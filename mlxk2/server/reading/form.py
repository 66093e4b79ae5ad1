"""What form the APIs ask an answer to have: JSON, or JSON that fits a schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mlxk2.errors import UsageError
from mlxk2.runner.constraint import Constraint
from mlxk2.server.errors import BadRequest

_ANY_OBJECT = '{"type":"object"}'


def constraint_of(kind: str, schema: Mapping[str, Any] | None, name: str) -> Constraint | None:
    """Return what the answer must be; the engine tries it out. Raises: BadRequest naming the field `name`."""
    if kind == "text":
        return None
    if kind == "json_schema" and schema is None:
        raise BadRequest(f"{name}: json_schema needs a schema", param=name)
    source = _ANY_OBJECT if kind == "json_object" else json.dumps(schema, ensure_ascii=False)
    try:
        return Constraint.json_schema(source).called(name)
    except UsageError as error:
        words = error.message.replace("--json-schema", name, 1)
        raise BadRequest(words, param=name) from error
