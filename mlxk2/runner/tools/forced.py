"""Calls that a model must make: the answer is held to the form of one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mlxk2 import errors
from mlxk2.runner.constraint import Constraint
from mlxk2.runner.request import AUTO, NONE, REQUIRED, GenerationRequest

_DEFINITIONS = ("$defs", "definitions")


def forced_call(request: GenerationRequest) -> Constraint | None:
    """Return what the answer must be where the request demands a call; None where it does not.

    Raises: UsageError naming `tools` where their parameters are no JSON Schema that can be enforced; DependencyMissing.
    """
    if request.tool_choice in (AUTO, NONE):
        return None
    functions = [tool["function"] for tool in request.tools]
    if request.tool_choice != REQUIRED:
        functions = [function for function in functions if function["name"] == request.tool_choice][:1]
    schema: dict[str, Any] = {}
    calls = [_call_schema(function, schema) for function in functions]
    schema.update(calls[0] if len(calls) == 1 else {"anyOf": calls})
    try:
        constraint = Constraint.json_schema(json.dumps(schema))
        constraint.check()
    except (errors.UsageError, TypeError, ValueError) as error:
        # Nobody gave the flag.
        reason = str(error).replace("--json-schema cannot be used: ", "").replace("--json-schema", "the schema")
        raise errors.UsageError(f"tools: their parameters cannot be used: {reason}", param="tools") from error
    return constraint


def _call_schema(function: Mapping[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """The form of one function's call; what its parameters define goes to `root`, where references look for it."""
    given = function.get("parameters")
    parameters: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {}
    for key in _DEFINITIONS:
        defined = parameters.pop(key, None)
        for name, definition in defined.items() if isinstance(defined, Mapping) else ():
            if root.setdefault(key, {}).setdefault(name, definition) != definition:
                raise errors.UsageError(f"tools: two of them define {name!r}, each in its own way")
    return {
        "type": "object",
        "properties": {"name": {"const": function["name"]}, "arguments": {"type": "object", **parameters}},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }
