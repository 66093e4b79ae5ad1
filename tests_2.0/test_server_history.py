"""What a conversation over HTTP brings along, broken calls and begun answers too, reaches the model or is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.random_models import random_model
from support.real_server import HI, MARKS, RealServer, real_server, refusal, said
from support.tiny_model import CHATML, TinyOptions, scripted_model

pytestmark = MARKS

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
TURNS = "{{% for m in messages %}}<{{{{ m.role }}}}>{{{{ m.content }}}}{{% for c in m.tool_calls %}}{}{{% endfor %}}{{% endfor %}}"
WRITES = "{{ tools }}" + TURNS.format(
    "{% set a = c.function.arguments %}{{ a if a is string else 'object ' + a | tojson }}"
)
LOOKS = "{{ tools }}" + TURNS.format("{% for k, v in c.function.arguments.items() %}{{ k }}={{ v }};{% endfor %}")
# Thoughts, and a tokenizer whose words bring their spaces along: text that goes on keeps what it begins with.
THINKS = CHATML + "{# <think></think> #}"
# What a tokenizer makes of text too: the next token follows from the last one of the prompt.
PIECES = ("O", "v", "x", " the", "z")
SPACED = ("X", " the", "Y")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    folder = tmp_path_factory.mktemp("models")
    models = [
        scripted_model(folder / "plain", pieces=PIECES),
        scripted_model(folder / "writes", pieces=PIECES, options=TinyOptions(chat_template=WRITES)),
        scripted_model(folder / "looks", pieces=PIECES, options=TinyOptions(chat_template=LOOKS)),
        scripted_model(folder / "thinks", pieces=SPACED, options=TinyOptions(chat_template=THINKS, spm=True)),
        random_model(folder / "Tiny-Embedding", "qwen3"),
    ]
    with real_server(*models) as started:
        yield started


def post(server: RealServer, model: str, path: str, **body: Any) -> Any:
    limit = {"max_output_tokens": 20} if path == RESPONSES else {"max_tokens": 20}
    limit = {} if path.endswith("count_tokens") else limit
    return server.client.post(path, json={"model": str(Path(server.model).with_name(model)), **limit, **body})


def tokens(server: RealServer, model: str, text: str) -> int:
    """Return how many tokens a prompt has that is rendered already."""
    answer = post(server, model, "/v1/completions", prompt=text)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["usage"]["prompt_tokens"])


def history(path: str, arguments: str) -> dict[str, Any]:
    """Return a conversation with one call in it, and its result."""
    if path == CHAT:
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
        called = {"role": "assistant", "content": "", "tool_calls": [call]}
        return {"messages": [*HI, called, {"role": "tool", "tool_call_id": "1", "content": "x"}]}
    if path == RESPONSES:
        call = {"type": "function_call", "call_id": "1", "name": "f", "arguments": arguments}
        return {"input": [*HI, call, {"type": "function_call_output", "call_id": "1", "output": "x"}]}
    block = {"type": "tool_use", "id": "1", "name": "f", "input": json.loads(arguments)}
    result = {"type": "tool_result", "tool_use_id": "1", "content": "x"}
    return {"messages": [*HI, {"role": "assistant", "content": [block]}, {"role": "user", "content": [result]}]}


def prompt_tokens(answer: Any) -> int:
    assert answer.status_code == 200, answer.text
    usage = answer.json()["usage"]
    return int(usage.get("prompt_tokens") or usage.get("input_tokens"))


WHOLE = '{"city": "Rome", "days": [1, 2]}'
DEEP = "[" * 5000


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
@pytest.mark.parametrize(
    ("arguments", "written", "looked"),
    [
        (WHOLE, f"object {WHOLE}", "city=Rome;days=[1, 2];"),
        ('{"city": "Rome", "days": [1, ', None, "city=Rome;days=[1];"),
        ("{nonsense", None, ""),
        ('{"a": NaN}', None, ""),
        ('{"a": 1, "b": 1e999}', None, ""),
        ('{"a": "\\ud800"}', None, ""),
        ("[1]", None, ""),
        ("", "object {}", ""),
        (DEEP[:150], None, ""),
    ],
    ids=lambda value: str(value)[:20],
)
def test_broken_arguments_reach_the_template(
    server: RealServer, path: str, arguments: str, written: str | None, looked: str
) -> None:
    asked = history(path, arguments)
    seen = written if written is not None else arguments
    count = prompt_tokens(post(server, "writes", path, **asked))
    assert count == tokens(server, "writes", f"None<user>hi<assistant>{seen}<tool>x")
    count = prompt_tokens(post(server, "looks", path, **asked))
    assert count == tokens(server, "looks", f"None<user>hi<assistant>{looked}<tool>x")


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
def test_calls_and_results_are_refused_where_the_template_leaves_them_out(server: RealServer, path: str) -> None:
    answer = post(server, "plain", path, **history(path, WHOLE))
    assert answer.status_code == 400, answer.text
    field = "input" if path == RESPONSES else "messages"
    error = answer.json()["error"]
    assert (error.get("param", field), error["message"].partition(":")[0]) == (field, field)
    assert "knows no tools" in error["message"]


def test_an_assistants_last_message_goes_on_in_messages(server: RealServer) -> None:
    begun = [*HI, {"role": "assistant", "content": [{"type": "text", "text": "Ov"}]}]
    answer = post(server, "plain", MESSAGES, messages=begun).json()
    assert (answer["content"], answer["stop_reason"]) == ([{"type": "text", "text": "x thez"}], "end_turn")
    rendered = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nOv"
    assert answer["usage"]["input_tokens"] + answer["usage"]["cache_read_input_tokens"] == tokens(
        server, "plain", rendered
    )
    counted = post(server, "plain", f"{MESSAGES}/count_tokens", messages=begun).json()["input_tokens"]
    assert counted == tokens(server, "plain", rendered)
    streamed = post(server, "plain", MESSAGES, messages=begun, stream=True).text
    deltas = [json.loads(line[len("data: ") :]) for line in streamed.splitlines() if "text_delta" in line]
    assert "".join(delta["delta"]["text"] for delta in deltas) == "x thez"


def test_what_goes_on_keeps_the_space_it_begins_with(server: RealServer) -> None:
    begun = [*HI, {"role": "assistant", "content": "X"}]
    answer = post(server, "thinks", MESSAGES, messages=begun).json()
    assert answer["content"] == [{"type": "text", "text": " theY"}]


EMPTY = {"role": "assistant", "content": ""}


@pytest.mark.parametrize("more", [{}, {"thinking": {"type": "enabled", "budget_tokens": 1024}}])
def test_an_empty_beginning_is_none(server: RealServer, more: dict[str, Any]) -> None:
    answer = post(server, "plain", MESSAGES, messages=[*HI, EMPTY], **more).json()
    assert answer["content"] == [{"type": "text", "text": "".join(PIECES)}]
    nothing = post(server, "plain", MESSAGES, messages=[EMPTY], system="be brief", **more)
    assert nothing.status_code == 400 and "needs text" in nothing.json()["error"]["message"]


def test_messages_of_the_assistant_in_a_row_are_one_beginning(server: RealServer) -> None:
    parts = [{"role": "assistant", "content": text} for text in ("O", "v")]
    answer = post(server, "plain", MESSAGES, messages=[*HI, *parts, EMPTY]).json()
    assert answer["content"] == [{"type": "text", "text": "x thez"}]


FORM = {"format": {"type": "json_schema", "schema": {"type": "object"}}}
BEGUN = {"role": "assistant", "content": "a"}
CALL = {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f", "input": {}}]}
THOUGHTS = {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": ""}]}
TOOL = {"name": "f", "input_schema": {"type": "object"}}


@pytest.mark.parametrize(
    ("last", "more", "words"),
    [
        ({"role": "assistant", "content": "a "}, {}, "whitespace"),
        (CALL, {}, "needs its result"),
        (THOUGHTS, {}, "needs text"),
        (BEGUN, {"output_config": FORM}, "output_config.format"),
        (BEGUN, {"tools": [TOOL], "tool_choice": {"type": "any"}}, "tool_choice"),
        (BEGUN, {"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_beginning_that_cannot_go_on_is_refused(
    server: RealServer, last: dict[str, Any], more: dict[str, Any], words: str
) -> None:
    answer = post(server, "writes", MESSAGES, messages=[*HI, last], **more)
    assert answer.status_code == 400, answer.text
    message = answer.json()["error"]["message"]
    assert message.startswith("messages.1.content: ") and words in message


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
def test_elsewhere_a_new_turn_begins_after_an_assistants(server: RealServer, path: str) -> None:
    conversation = [*HI, {"role": "assistant", "content": "Ov"}]
    answer = post(server, "plain", path, **{"messages" if path == CHAT else "input": conversation})
    text = said(answer) if path == CHAT else answer.json()["output"][0]["content"][0]["text"]
    assert text == "".join(PIECES)
    closed = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nOv<|im_end|>\n<|im_start|>assistant\n"
    assert prompt_tokens(answer) == tokens(server, "plain", closed)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": HI}),
        (CHAT, {"messages": HI, "stream": True}),
        ("/v1/completions", {"prompt": "hi"}),
        (RESPONSES, {"input": "hi"}),
        (MESSAGES, {"messages": HI}),
        (f"{MESSAGES}/count_tokens", {"messages": HI}),
    ],
)
def test_an_embedding_model_answers_nothing(server: RealServer, path: str, body: dict[str, Any]) -> None:
    answer = post(server, "Tiny-Embedding", path, **body)
    assert answer.status_code == 422, answer.text
    error = answer.json()["error"]
    assert error.get("param", "model") == "model"
    assert "is an embedding model" in error["message"] and "/v1/embeddings" in error["message"]


def test_an_id_that_an_embedding_model_has_not_is_in_its_input(server: RealServer) -> None:
    name = str(Path(server.model).with_name("Tiny-Embedding"))
    error = refusal(server.client.post("/v1/embeddings", json={"model": name, "input": [999999]}))
    assert (error["param"], error["message"].partition(":")[0]) == ("input", "input")
