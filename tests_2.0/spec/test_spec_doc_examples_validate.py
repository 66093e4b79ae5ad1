"""Every JSON block of the specification is a whole answer that the schema accepts, and no command lacks an example."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest

from mlxk2 import envelope
from mlxk2.spec import SCHEMA_PATH

pytestmark = pytest.mark.spec
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "json-api-specification.md"
BLOCKS = re.findall(r"^```json\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
SCHEMA = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_example_is_a_valid_answer(block: str) -> None:
    answer = json.loads(block)
    assert list(answer) == ["status", "command", "data", "error"]
    jsonschema.Draft7Validator(SCHEMA).validate(answer)


def test_every_command_has_a_successful_example() -> None:
    shown = {answer["command"] for answer in map(json.loads, BLOCKS) if answer["status"] == "success"}
    assert shown >= set(envelope.COMMANDS)


def test_examples_show_every_field_of_the_model_object() -> None:
    fields = list(SCHEMA["definitions"]["model"]["properties"])
    for answer in map(json.loads, BLOCKS):
        for model in (answer["data"] or {}).get("models", ()):
            assert list(model) == fields


def test_a_wrong_example_would_be_noticed() -> None:
    answer = json.loads(BLOCKS[0])
    answer["data"]["count"] = "none"
    assert not jsonschema.Draft7Validator(SCHEMA).is_valid(answer)
