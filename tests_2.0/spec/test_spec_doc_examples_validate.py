"""Every JSON block of the specification is a whole answer that the schema accepts, and none tells what no command says."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from mlxk2 import envelope
from mlxk2.spec import SCHEMA_PATH

pytestmark = pytest.mark.spec
ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "json-api-specification.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```json\n(.*?)^```", DOCUMENT, re.DOTALL | re.MULTILINE)
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


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in a JSON value, at any depth."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from objects(inner)


def test_examples_recommend_the_memory_that_their_figures_need() -> None:
    shown = [answer["data"] for answer in map(json.loads, BLOCKS) if answer["command"] == "show" and answer["data"]]
    assert shown
    for data in shown:
        memory = data["memory"]
        tokens = min(data["model"]["context_length"], 8192)
        whole = memory["weights_bytes"] + tokens * memory["kv_bytes_per_token"]
        assert memory["recommended_bytes"] == whole + whole // 10 + 128 * 2**20


def finding_codes() -> set[str]:
    """The codes that the checks give, read out of their sources: in `Finding(...)`, `code = ...` and tables of tuples."""
    spelled: list[ast.expr] = []
    for name in ("integrity", "content_hash"):
        source = (ROOT / "mlxk2" / "inspection" / f"{name}.py").read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and ast.unparse(node.func).lower().endswith("finding") and node.args:
                spelled.append(node.args[0])
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "code":
                spelled.append(node.value)
            if isinstance(node, ast.Tuple) and all(isinstance(item, ast.Tuple) for item in node.elts):
                spelled += [cell for row in node.elts for cell in row.elts]
    values = {part.value for value in spelled for part in _texts(value)}
    return {text for text in values if re.fullmatch(r"[a-z]+(_[a-z]+)+", text)}


def _texts(value: ast.expr) -> Iterator[ast.Constant]:
    if isinstance(value, ast.IfExp):
        yield from (*_texts(value.body), *_texts(value.orelse))
    elif isinstance(value, ast.Constant) and isinstance(value.value, str):
        yield value


def reason_table() -> list[tuple[str, list[str], list[str]]]:
    """The rows of the table of reasons: check, reasons, codes."""
    table = DOCUMENT.split("| check | reason | code of the finding |\n|---|---|---|\n", 1)[1].split("\n\n", 1)[0]
    cells = [row.strip("| ").split(" | ") for row in table.splitlines()]
    return [
        (check, re.findall("`([^`]+)`", reasons), re.findall("`([^`]+)`", codes)) for check, reasons, codes in cells
    ]


def test_the_table_of_reasons_has_every_code_and_no_other() -> None:
    assert {code for _, _, codes in reason_table() for code in codes} == finding_codes()


def test_codes_of_examples_are_codes_that_a_check_gives() -> None:
    findings = [
        found for block in BLOCKS for found in objects(json.loads(block)) if set(found) == {"code", "message", "path"}
    ]
    assert findings
    assert {found["code"] for found in findings} <= finding_codes()


def test_every_reason_is_one_that_the_program_can_give() -> None:
    sources = [*(ROOT / "mlxk2" / "store").glob("*.py"), *(ROOT / "mlxk2" / "inspection").glob("*.py")]
    program = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    reasons = [re.split(r"[:(<]| k/N", text)[0].strip() for _, reasons, _ in reason_table() for text in reasons]
    assert [reason for reason in reasons if reason not in program] == []
