"""One version of the JSON API: the code, the schema, the specification and what `--version` says are equal."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from support.call import call

from mlxk2.spec import JSON_API_SPEC_VERSION, SCHEMA_PATH

pytestmark = pytest.mark.spec
DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_specification_states_the_version_of_the_code_once() -> None:
    text = (DOCS / "json-api-specification.md").read_text(encoding="utf-8")
    assert re.findall(r"\*\*Specification Version:\*\* (\S+)", text) == [JSON_API_SPEC_VERSION]


def test_schema_carries_the_version_of_the_code() -> None:
    assert json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))["version"] == JSON_API_SPEC_VERSION


def test_documented_schema_is_the_shipped_one() -> None:
    assert (DOCS / "json-api-schema.json").read_bytes() == SCHEMA_PATH.read_bytes()


def test_version_answer_tells_the_version_of_the_code() -> None:
    assert call("--version", "--json").json["data"]["json_api_spec_version"] == JSON_API_SPEC_VERSION


def test_version_is_semantic() -> None:
    assert re.fullmatch(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)", JSON_API_SPEC_VERSION)
