"""Every error type of the package: unique, documented, with a legal exit code, and able to become a valid answer."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest

from mlxk2 import envelope
from mlxk2.errors import InternalError, MlxkError, kind_of
from mlxk2.server.errors import BadRequest
from mlxk2.spec import SCHEMA_PATH

ROOT = Path(__file__).resolve().parent.parent
VALIDATOR = jsonschema.Draft7Validator(json.loads(SCHEMA_PATH.read_text(encoding="utf-8")))


# What commands end with, and not what requests do: those are imported with the server.
KINDS = [kind for kind in MlxkError.__subclasses__() if kind.__module__.startswith("mlxk2.errors")]


def test_each_wire_type_belongs_to_one_class() -> None:
    kinds = MlxkError.__subclasses__()
    assert BadRequest in kinds and len(KINDS) > 10
    assert [kind_of(kind.type) for kind in kinds] == kinds
    assert not any(kind.__subclasses__() for kind in kinds)


def test_a_type_that_nobody_knows_is_a_bug() -> None:
    assert kind_of("no_such_type") is InternalError


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_error_has_a_legal_exit_code_a_status_and_words(kind: type[MlxkError]) -> None:
    assert kind.exit_code in (1, 2, 130)
    assert 400 <= kind.http_status <= 599
    assert kind.__doc__ is not None
    assert "type" in vars(kind) or kind.type == "InternalError", "a class without a type of its own"


@pytest.mark.parametrize("command", envelope.COMMANDS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_error_becomes_a_valid_answer_of_every_command(kind: type[MlxkError], command: str) -> None:
    error = kind(
        "it went wrong", hint="try again", detail={"a": [1]}, matches=("org/a",), available_hashes=("01234567",)
    )
    answer = json.loads(envelope.to_json(envelope.failure(command, error)))
    assert list(answer) == ["status", "command", "data", "error"]
    assert (answer["status"], answer["command"], answer["data"]) == ("error", command, None)
    assert (answer["error"]["type"], answer["error"]["message"]) == (kind.type, "it went wrong")
    assert answer["error"].get("retryable", False) is kind.retryable
    VALIDATOR.validate(answer)


def test_an_error_of_no_known_command_answers_as_none() -> None:
    answer = envelope.failure("lst", KINDS[0]("what"))
    assert answer["command"] is None
    VALIDATOR.validate(answer)


def test_every_type_is_in_the_specification() -> None:
    text = (ROOT / "docs" / "json-api-specification.md").read_text(encoding="utf-8")
    table = text.split("<!-- generated: errors -->", 1)[1].split("<!-- end -->", 1)[0]
    documented = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    assert documented == {kind.type for kind in KINDS}
