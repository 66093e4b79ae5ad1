"""Run one command in this process, with streams and environment of the test's own, and check every JSON answer."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jsonschema

from mlxk2.cli import main
from mlxk2.cli.io import Io
from mlxk2.spec import SCHEMA_PATH

SCHEMA = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)
KEYS = ["status", "command", "data", "error"]


class Stream(io.StringIO):
    """Text in memory that can claim to be a terminal."""

    def __init__(self, text: str = "", terminal: bool = False) -> None:
        super().__init__(text)
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@dataclass(frozen=True)
class Result:
    """What a command left: exit code, both streams, and the parsed answer if there is one."""

    code: int
    stdout: str
    stderr: str
    json: dict[str, Any] | None

    @property
    def data(self) -> Any:
        assert self.json is not None
        return self.json["data"]

    @property
    def error(self) -> Any:
        assert self.json is not None
        return self.json["error"]


def call(
    *argv: str,
    env: Mapping[str, str] | None = None,
    stdin: str = "",
    terminal: bool = False,
    width: int | None = None,
    now: float | None = None,
) -> Result:
    """Run `mlxk2 ARGV`. With `terminal` all three streams claim to be one, `width` characters wide.

    In JSON mode stdout must be one valid envelope and nothing else; its status must agree with the exit code.
    """
    out, err = Stream(terminal=terminal), Stream(terminal=terminal)
    clock = {} if now is None else {"clock": lambda: now}
    world = Io(Stream(stdin, terminal), out, err, dict(env or {}), width=width, **clock)
    code = main(list(argv), world)
    text = out.getvalue()
    answer = checked(text, code) if "--json" in argv else None
    return Result(code, text, err.getvalue(), answer)


def checked(text: str, code: int) -> dict[str, Any]:
    """Parse the one JSON document in `text` and hold it against the schema and the exit code."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    answer = json.loads(text, parse_constant=refuse)
    assert list(answer) == KEYS
    errors = [error.message for error in VALIDATOR.iter_errors(answer)]
    assert not errors, errors
    assert (answer["status"] == "success") == (code == 0)
    assert text.endswith("}\n")
    return answer
