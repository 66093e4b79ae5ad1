"""Give the JSON Schema of the answers, whole or of one command."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from mlxk2.envelope import COMMANDS
from mlxk2.errors import UsageError
from mlxk2.spec import SCHEMA_PATH

# The lines that `--stream-json` prints before the answer.
EVENT = "event"


@dataclass(frozen=True)
class SchemaResult:
    command: str | None
    schema: dict[str, Any]


def answer_schema(command: str | None) -> SchemaResult:
    """Return the schema of all answers, or of one command with just the definitions that it uses. Raises: UsageError."""
    whole = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
    if command is None:
        return SchemaResult(None, whole)
    if command not in (*COMMANDS, EVENT):
        raise UsageError(f"'{command}' is no command with an answer", hint="one of: " + ", ".join((*COMMANDS, EVENT)))
    definitions = whole["definitions"]
    used = _reachable(command, definitions)
    return SchemaResult(
        command,
        {
            "$schema": whole["$schema"],
            "title": f"{whole['title']}: {command}",
            "version": whole["version"],
            "$ref": f"#/definitions/{command}",
            "definitions": {name: definitions[name] for name in definitions if name in used},
        },
    )


def _reachable(name: str, definitions: dict[str, Any]) -> set[str]:
    """Names of the definitions that `name` leads to, itself included."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            text = json.dumps(definitions[current])
            waiting += [other for other in definitions if f'"#/definitions/{other}"' in text]
    return found
