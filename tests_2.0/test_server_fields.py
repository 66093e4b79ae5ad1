"""Each field of a request does what it says, or is a label, or is refused by its name with what is possible."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from support.fake_host import MODEL, PART, FakeHost, RunningServer, Script, http_client, serving
from support.processes import wait_until

from mlxk2.errors import UsageError

pytest.importorskip("fastapi", reason="the server's packages are not installed")
HTTP = http_client()

CHAT, TEXT, RESPONSES, MESSAGES, VECTORS = (
    "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/embeddings",
)  # fmt: skip
HELLO = [{"role": "user", "content": "hello"}]
SOUND: dict[str, dict[str, Any]] = {
    CHAT: {"messages": HELLO},
    TEXT: {"prompt": "a"},
    RESPONSES: {"input": "a"},
    MESSAGES: {"messages": HELLO, "max_tokens": 5},
    VECTORS: {"input": "a"},
}


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serving(FakeHost()) as running:
        yield running


@pytest.fixture(autouse=True)
def fresh(server: RunningServer) -> None:
    server.host.script = Script()
    server.host.requests.clear()


def post(server: RunningServer, path: str, **change: Any) -> Any:
    return HTTP.post(server.url + path, json={**SOUND[path], **change})


def users(*blocks: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(blocks)}]


TOOL = {"name": "f", "input_schema": {"type": "object"}}
SCHEMA = {"type": "object"}
FORM: dict[str, Any] = {"type": "json_schema", "schema": SCHEMA}
CHAT_FORM = {"type": "json_object"}


def functions(*names: str, parameters: Any = SCHEMA) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": name, "parameters": parameters}} for name in names]


def flat(*names: str, parameters: Any = SCHEMA) -> list[dict[str, Any]]:
    return [{"type": "function", "name": name, "parameters": parameters} for name in names]


# A form that an answer must have leaves no room for a call.
TOOLS_AND_FORM: list[tuple[str, dict[str, Any], str]] = [
    (CHAT, {"tools": functions("f"), "response_format": CHAT_FORM}, "response_format"),
    (RESPONSES, {"tools": flat("f"), "text": {"format": {**FORM, "name": "x"}}}, "text.format"),
    (MESSAGES, {"tools": [TOOL], "output_config": {"format": FORM}}, "output_config.format"),
]
REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    *((path, {"store": True}, "store", "false") for path in (CHAT, TEXT, RESPONSES)),
    *((path, {"service_tier": "priority"}, "service_tier", "'default'") for path in (CHAT, TEXT, RESPONSES)),
    (MESSAGES, {"service_tier": "priority"}, "service_tier", "'standard_only'"),
    *((path, {"prompt_cache_retention": "24h"}, "prompt_cache_retention", "in_memory") for path in (CHAT, RESPONSES)),
    (CHAT, {"verbosity": "low"}, "verbosity", "'medium'"),
    (RESPONSES, {"text": {"verbosity": "high"}}, "text.verbosity", "'medium'"),
    (RESPONSES, {"reasoning": {"summary": "concise"}}, "reasoning.summary", "'auto'"),
    (RESPONSES, {"reasoning": {"generate_summary": "detailed"}}, "reasoning.generate_summary", "'auto'"),
    (CHAT, {"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation", "false"),
    (RESPONSES, {"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation", "false"),
    (RESPONSES, {"stream_options": {}}, "stream_options", "stream"),
    (CHAT, {"messages": users({"type": "text", "text": "a", "image_url": {"url": "x"}})}, "messages.0.content.0.image_url", "'text'"),
    (RESPONSES, {"input": users({"type": "input_text", "text": "a", "file_id": "x"})}, "input.0.content.0.file_id", "'input_text'"),
    (RESPONSES, {"input": [{"type": "message", "role": "user", "content": "a", "call_id": "x"}]}, "input.0.call_id", "'message'"),
    (RESPONSES, {"input": [{"type": "reasoning", "encrypted_content": "gAAA"}]}, "input.0.encrypted_content", "leave it out"),
    (RESPONSES, {"input": [{"type": "reasoning", "encrypted_content": "mlxk2.%"}]}, "input.0.encrypted_content", "leave it out"),
    (MESSAGES, {"messages": users({"type": "text", "text": "a", "tool_use_id": "x"})}, "messages.0.content.0.tool_use_id", "'text'"),
    (MESSAGES, {"messages": users({"type": "redacted_thinking", "data": "x"})}, "messages.0.content.0", "redacted_thinking"),
    (MESSAGES, {"thinking": {"type": "enabled", "budget_tokens": 1024, "display": "omitted"}}, "thinking.display", "'summarized'"),
    (MESSAGES, {"tools": [{**TOOL, "input_examples": [{}]}]}, "tools.0.input_examples", "not supported"),
    (MESSAGES, {"cache_control": {"type": "forever"}}, "cache_control.type", "'ephemeral'"),
    (VECTORS, {"dimensions": 3}, "dimensions", "not supported"),
    *((path, change, field, "tool_choice to none") for path, change, field in TOOLS_AND_FORM),
    (CHAT, {**TOOLS_AND_FORM[0][1], "tool_choice": "required"}, "response_format", "tool_choice to none"),
    (RESPONSES, {**TOOLS_AND_FORM[1][1], "tool_choice": "required"}, "text.format", "tool_choice to none"),
    (MESSAGES, {**TOOLS_AND_FORM[2][1], "tool_choice": {"type": "any"}}, "output_config.format", "tool_choice to none"),
    (CHAT, {"tools": functions("f", "g", "f")}, "tools.2.function.name", "tool 0"),
    (RESPONSES, {"tools": flat("f", "f")}, "tools.1.name", "tool 0"),
    (MESSAGES, {"tools": [TOOL, TOOL]}, "tools.1.name", "tool 0"),
    *((CHAT, {"tools": functions(name)}, "tools.0.function.name", "A-Z") for name in ("", "a b", "f\n", "é", "f" * 129)),
    (RESPONSES, {"tools": flat("a/b")}, "tools.0.name", "A-Z"),
    (MESSAGES, {"tools": [{**TOOL, "name": "a b"}]}, "tools.0.name", "A-Z"),
    (CHAT, {"tools": functions("f", parameters="x")}, "tools.0.function.parameters", "an object"),
    (CHAT, {"tools": functions("f", parameters={"type": "array"})}, "tools.0.function.parameters.type", "object"),
    (RESPONSES, {"tools": flat("f", parameters={"type": "string"})}, "tools.0.parameters.type", "object"),
    (MESSAGES, {"tools": [{**TOOL, "input_schema": {"type": 5}}]}, "tools.0.input_schema.type", "object"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "change", "field", "words"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_is_not_done_is_a_400_that_names_the_field_and_says_what_is_possible(
    server: RunningServer, path: str, change: dict[str, Any], field: str, words: str
) -> None:
    answer = post(server, path, **change)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error.get("param", field) == field
    assert field in error["message"] and words in error["message"]
    assert server.host.requests == []


LABELS = {"user": "me", "metadata": {"a": "b"}, "safety_identifier": "x", "prompt_cache_key": "y"}
AS_EVER: list[tuple[str, dict[str, Any]]] = [
    *((path, {**LABELS, "store": False, "service_tier": "auto"}) for path in (CHAT, TEXT, RESPONSES)),
    *((path, {"store": None, "service_tier": "default", "prompt_cache_retention": "in_memory"}) for path in (CHAT, RESPONSES)),
    (CHAT, {"verbosity": "medium", "modalities": ["text"], "reasoning_effort": None}),
    (CHAT, {"stream": True, "stream_options": {"include_usage": True, "include_obfuscation": False}}),
    (RESPONSES, {"text": {"verbosity": "medium"}, "truncation": "disabled", "background": False}),
    (RESPONSES, {"reasoning": {"effort": "low", "summary": "auto"}, "include": ["reasoning.encrypted_content"]}),
    (MESSAGES, {"metadata": {"user_id": "me"}, "service_tier": "auto", "cache_control": {"type": "ephemeral", "ttl": "1h"}}),
    (MESSAGES, {"thinking": {"type": "enabled", "budget_tokens": 2048, "display": "summarized"}}),
    (MESSAGES, {"messages": users({"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}})}),
    (VECTORS, {"user": "me", "encoding_format": None}),
    (CHAT, {"tools": functions("a.b-c_D9", "f" * 128, parameters={}), "response_format": {"type": "text"}}),
    (CHAT, {"tools": functions("f", parameters=None), "tool_choice": "none", "response_format": CHAT_FORM}),
    (RESPONSES, {**TOOLS_AND_FORM[1][1], "tool_choice": "none"}),
    (MESSAGES, {**TOOLS_AND_FORM[2][1], "tool_choice": {"type": "none"}}),
]  # fmt: skip


@pytest.mark.parametrize(("path", "change"), AS_EVER, ids=lambda value: str(value)[:40])
def test_labels_and_what_is_done_anyway_are_taken(server: RunningServer, path: str, change: dict[str, Any]) -> None:
    answer = post(server, path, **change)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
def test_without_a_choice_to_call_the_form_holds(server: RunningServer, path: str) -> None:
    choice: Any = {"type": "none"} if path == MESSAGES else "none"
    change = next(change for other, change, _ in TOOLS_AND_FORM if other == path)
    assert post(server, path, **change, tool_choice=choice).status_code == 200
    assert server.host.requests[0].constraint is not None


def test_a_token_that_is_none_is_called_by_the_name_of_its_field(server: RunningServer) -> None:
    server.host.script = Script(
        error=UsageError("prompt: the model has no token 99999", hint="its ids go from 0 to 99")
    )
    error = post(server, VECTORS, input=[99999]).json()["error"]
    assert (error["param"], error["message"][:7]) == ("input", "input: ")
    error = post(server, TEXT, prompt=[99999]).json()["error"]
    assert (error["param"], error["message"][:8]) == ("prompt", "prompt: ")


@pytest.mark.parametrize("reason", ["length", "stop"])
def test_thoughts_without_an_answer_are_alike_whole_and_streamed(server: RunningServer, reason: str) -> None:
    server.host.script = Script(words=(), thoughts=("I ", "think"), reason=reason)
    whole = post(server, RESPONSES).json()
    last = json.loads(post(server, RESPONSES, stream=True).text.strip().rpartition("data: ")[2])["response"]
    state = "incomplete" if reason == "length" else "completed"
    for told in (whole, last):
        assert [(item["type"], item["status"]) for item in told["output"]] == [("reasoning", state)]
        assert told["status"] == state


def test_a_tool_that_failed_is_told_to_the_model(server: RunningServer) -> None:
    call = {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]}
    result = {"type": "tool_result", "tool_use_id": "t", "content": "no such city", "is_error": True}
    assert post(server, MESSAGES, messages=[*HELLO, call, *users(result)]).status_code == 200
    assert server.host.requests[0].messages[-1].content == "Error: no such city"


@pytest.mark.parametrize("stream", [False, True])
def test_thoughts_come_back_in_the_form_that_only_the_server_reads(server: RunningServer, stream: bool) -> None:
    server.host.script = Script(thoughts=("hm, ", "é"))
    answer = post(server, RESPONSES, include=["reasoning.encrypted_content"], stream=stream)
    assert answer.status_code == 200
    word = answer.text.split('"encrypted_content":"')[-1].split('"')[0]
    item = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": word}
    again = [{"role": "user", "content": "a"}, item, {"role": "assistant", "content": "b"}, *HELLO]
    assert post(server, RESPONSES, input=again).status_code == 200
    assert server.host.requests[-1].messages[1].reasoning == "hm, é"
    assert "encrypted_content" not in post(server, RESPONSES, stream=stream).text


def test_a_summary_of_thoughts_is_read_where_there_is_no_more(server: RunningServer) -> None:
    item = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "short"}]}
    again = [{"role": "user", "content": "a"}, item, {"role": "assistant", "content": "b"}, *HELLO]
    assert post(server, RESPONSES, input=again).status_code == 200
    assert server.host.requests[-1].messages[1].reasoning == "short"


@pytest.mark.parametrize("asked", [None, PART, MODEL])
@pytest.mark.parametrize("path", SOUND)
def test_answers_and_the_log_call_the_model_by_its_whole_name(
    server: RunningServer, caplog: pytest.LogCaptureFixture, path: str, asked: str | None
) -> None:
    caplog.set_level(logging.INFO, logger="mlxk2.access")
    assert post(server, path, model=asked).json()["model"] == MODEL
    if path != VECTORS:
        streamed = post(server, path, model=asked, stream=True).text
        told = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
        names = [event.get("model") or event.get("message", event.get("response", {})).get("model") for event in told]
        assert set(filter(None, names)) == {MODEL}
    wait_until(lambda: len(access_lines(caplog)) == 1 + (path != VECTORS))
    assert {line["model"] for line in access_lines(caplog)} == {MODEL}


def access_lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [vars(record)["fields"] for record in caplog.records if record.name == "mlxk2.access"]
