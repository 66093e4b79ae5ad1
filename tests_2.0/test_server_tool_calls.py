"""Tool calls over HTTP, with a real engine: in every API a stream says what a whole answer says, and both the truth."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.real_server import MARKS, RealServer, real_server
from support.tiny_model import TinyOptions, distinct_pieces, scripted_model

pytestmark = MARKS

TEMPLATE = (
    "{{ tools }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{# <tool_call>{{ tool_call.name }} #}"
)
OPTIONS = TinyOptions(chat_template=TEMPLATE, context_length=2048)
FIRST = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome, Italy", "days": [1, 2]}}\n</tool_call>'
SECOND = '<tool_call>\n{"name": "time", "arguments": {"zone": "CET"}}\n</tool_call>'
GOOD = f"I look.\n{FIRST}\n{SECOND}"
BROKEN = 'Hm. <tool_call>\n{"name": "weather", "arguments": {"city": "Rome", "days": oops}}\n</tool_call> So it is.'
# No reader of JSON can hold this number; behind it the limit may cut.
HUGE = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome", "days": 1e999}}\n</tool_call>'
ARGUMENTS = '{"city": "Rome, Italy", "days": [1, 2]}'

NAMES = ("weather", "time")
CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
PATHS = (CHAT, RESPONSES, MESSAGES)
HI = [{"role": "user", "content": "hi"}]
PARAMETERS = {"type": "object", "properties": {}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    folder = tmp_path_factory.mktemp("models")
    models = [
        scripted_model(folder / name, text, OPTIONS)
        for name, text in (("good", GOOD), ("broken", BROKEN), ("huge", HUGE))
    ]
    with real_server(*models) as started:
        yield started


class Heard(NamedTuple):
    """What a client heard: text, calls as (name, arguments), why it ended, tokens, and what has which status."""

    text: str
    calls: list[tuple[str, str]]
    reason: str
    tokens: int
    states: list[str]


def body(path: str, *, one_call: bool = False, max_tokens: int = 1000) -> dict[str, Any]:
    functions = [{"name": name, "parameters": PARAMETERS} for name in NAMES]
    if path == CHAT:
        tools = [{"type": "function", "function": function} for function in functions]
        return {"messages": HI, "tools": tools, "max_tokens": max_tokens, "parallel_tool_calls": not one_call}
    if path == RESPONSES:
        flat = [{"type": "function", **function} for function in functions]
        return {"input": "hi", "tools": flat, "max_output_tokens": max_tokens, "parallel_tool_calls": not one_call}
    claudes = [{"name": name, "input_schema": PARAMETERS} for name in NAMES]
    choice = {"type": "auto", "disable_parallel_tool_use": one_call}
    return {"messages": HI, "tools": claudes, "max_tokens": max_tokens, "tool_choice": choice}


def model(server: RealServer, name: str) -> str:
    return str(Path(server.model).with_name(name))


def whole(server: RealServer, name: str, path: str, **options: Any) -> Heard:
    answer = server.client.post(path, json={**body(path, **options), "model": model(server, name)})
    assert answer.status_code == 200, answer.text
    return {CHAT: of_chat, RESPONSES: of_response, MESSAGES: of_message}[path](answer.json())


def streamed(server: RealServer, name: str, path: str, **options: Any) -> Heard:
    asked = {**body(path, **options), "model": model(server, name), "stream": True}
    if path == CHAT:
        asked["stream_options"] = {"include_usage": True}
    answer = server.client.post(path, json=asked)
    assert answer.status_code == 200, answer.text
    lines = [line[len("data: ") :] for line in answer.text.splitlines() if line.startswith("data: ")]
    events = [json.loads(line) for line in lines if line != "[DONE]"]
    return {CHAT: of_chunks, RESPONSES: of_response_events, MESSAGES: of_message_events}[path](events)


def of_chat(answer: dict[str, Any]) -> Heard:
    choice = answer["choices"][0]
    message = choice["message"]
    calls = [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls", ())]
    tokens = answer["usage"]["completion_tokens"]
    return Heard(message["content"] or "", calls, choice["finish_reason"], tokens, [])


def of_chunks(chunks: list[dict[str, Any]]) -> Heard:
    text, calls, reason = "", {}, ""
    for chunk in chunks[:-1]:
        choice = chunk["choices"][0]
        text += choice["delta"].get("content") or ""
        reason = choice["finish_reason"] or reason
        for part in choice["delta"].get("tool_calls", ()):
            name, said = calls.get(part["index"], ("", ""))
            calls[part["index"]] = (name + part["function"].get("name", ""), said + part["function"]["arguments"])
    return Heard(text, list(calls.values()), reason, chunks[-1]["usage"]["completion_tokens"], [])


def of_response(answer: dict[str, Any]) -> Heard:
    items = answer["output"]
    texts = [part["text"] for item in items if item["type"] == "message" for part in item["content"]]
    calls = [(item["name"], item["arguments"]) for item in items if item["type"] == "function_call"]
    details = answer["incomplete_details"]
    reason = answer["status"] if details is None else details["reason"]
    states = [item["status"] for item in items if item["type"] == "function_call"]
    return Heard("".join(texts), calls, reason, answer["usage"]["output_tokens"], states)


def of_response_events(events: list[dict[str, Any]]) -> Heard:
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    of_type = {kind: [event for event in events if event["type"] == f"response.{kind}"] for kind in
               ("output_text.delta", "output_item.done", "function_call_arguments.delta", "function_call_arguments.done")}  # fmt: skip
    done = [event["item"] for event in of_type["output_item.done"] if event["item"]["type"] == "function_call"]
    told: dict[str, str] = {item["id"]: "" for item in done}
    for event in of_type["function_call_arguments.delta"]:
        told[event["item_id"]] += event["delta"]
    assert [item["arguments"] for item in done] == list(told.values())
    final = of_response(events[-1]["response"])
    text = "".join(event["delta"] for event in of_type["output_text.delta"])
    assert text == final.text
    # What is no call after all is not said to be one by the response, nor that its arguments are done.
    assert [event["arguments"] for event in of_type["function_call_arguments.done"]] == [
        said for _, said in final.calls
    ]
    return final._replace(
        calls=[(item["name"], item["arguments"]) for item in done], states=[item["status"] for item in done]
    )


def of_message(answer: dict[str, Any]) -> Heard:
    blocks = answer["content"]
    texts = [block["text"] for block in blocks if block["type"] == "text"]
    calls = [(block["name"], json.dumps(block["input"])) for block in blocks if block["type"] == "tool_use"]
    return Heard("".join(texts), calls, answer["stop_reason"], answer["usage"]["output_tokens"], [])


def of_message_events(events: list[dict[str, Any]]) -> Heard:
    text, calls = "", {}
    for event in events:
        if event["type"] == "content_block_start" and event["content_block"]["type"] == "tool_use":
            calls[event["index"]] = (event["content_block"]["name"], "")
        elif event["type"] == "content_block_delta" and event["delta"]["type"] == "input_json_delta":
            name, said = calls[event["index"]]
            calls[event["index"]] = (name, said + event["delta"]["partial_json"])
        elif event["type"] == "content_block_delta":
            text += event["delta"]["text"]
    last = events[-2]
    return Heard(text, list(calls.values()), last["delta"]["stop_reason"], last["usage"]["output_tokens"], [])


def limit_at(words: str, text: str = GOOD) -> int:
    """Return after how many tokens a model that says `text` has said `words`, and little more."""
    pieces = distinct_pieces(text)
    return next(count for count in range(len(pieces) + 1) if words in "".join(pieces[:count]))


CALLED = {CHAT: "tool_calls", RESPONSES: "completed", MESSAGES: "tool_use"}
STOPPED = {CHAT: "stop", RESPONSES: "completed", MESSAGES: "end_turn"}
CUT = {CHAT: "length", RESPONSES: "max_output_tokens", MESSAGES: "max_tokens"}


@pytest.mark.parametrize("path", PATHS)
def test_calls_are_the_same_in_a_stream(server: RealServer, path: str) -> None:
    one, other = whole(server, "good", path), streamed(server, "good", path)
    assert one == other
    assert one.text == "I look."
    assert one.calls == [("weather", ARGUMENTS), ("time", '{"zone": "CET"}')]
    assert one.reason == CALLED[path]
    assert one.states == (["completed"] * 2 if path == RESPONSES else [])


@pytest.mark.parametrize("ask", [whole, streamed])
@pytest.mark.parametrize("path", PATHS)
def test_who_takes_one_call_has_no_further_one_generated(server: RealServer, path: str, ask: Any) -> None:
    heard = ask(server, "good", path, one_call=True)
    assert (heard.text, heard.calls, heard.reason) == ("I look.", [("weather", ARGUMENTS)], CALLED[path])
    assert heard.tokens == limit_at(FIRST)
    assert ask(server, "good", path).tokens == len(distinct_pieces(GOOD)) + 1


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("words", ['{"ci', "Rome", '"days": [1', FIRST[:-14], FIRST[:-13]])
def test_a_call_that_the_limit_cuts_stays_a_call(server: RealServer, path: str, words: str) -> None:
    limit = limit_at(words)
    one, other = (ask(server, "good", path, max_tokens=limit) for ask in (whole, streamed))
    for heard in (one, other):
        assert (heard.text, heard.reason, heard.tokens) == ("I look.", CUT[path], limit)
    said = "".join(distinct_pieces(GOOD)[:limit]).partition('"arguments": ')[2]
    arguments = ARGUMENTS if said.startswith(ARGUMENTS) else said
    assert other.calls == [("weather", arguments)]
    if path != MESSAGES:
        assert one.calls == other.calls
    else:
        # There the arguments are a value: of cut ones it has what is complete.
        cut = {'{"ci': {}, "Rome": {}, '"days": [1': {"city": "Rome, Italy", "days": [1]}}
        assert json.loads(one.calls[0][1]) == cut.get(words, json.loads(ARGUMENTS))
    states = ["completed" if arguments == ARGUMENTS else "incomplete"] if path == RESPONSES else []
    assert one.states == other.states == states


@pytest.mark.parametrize("path", PATHS)
def test_a_call_that_does_not_parse_is_text(server: RealServer, path: str) -> None:
    one, other = whole(server, "broken", path), streamed(server, "broken", path)
    assert (one.text, one.calls, one.reason) == (BROKEN, [], STOPPED[path])
    # Parts of it were told before that was known. They do not parse, and the end says that there is nothing to call.
    assert (other.text, other.reason, other.tokens) == (BROKEN, STOPPED[path], one.tokens)
    assert other.calls == [("weather", '{"city": "Rome", "days": ')]
    assert other.states == (["incomplete"] if path == RESPONSES else [])


@pytest.mark.parametrize("path", PATHS)
def test_a_number_that_no_reader_can_hold_is_in_no_call(server: RealServer, path: str) -> None:
    one, other = whole(server, "huge", path), streamed(server, "huge", path)
    assert (one.text, one.calls, one.reason) == (HUGE, [], STOPPED[path])
    assert (other.text, other.reason) == (HUGE, STOPPED[path])
    assert other.calls == [("weather", '{"city": "Rome", "days": 1e999')]
    cut = whole(server, "huge", path, max_tokens=limit_at("1e999}", HUGE))
    assert (cut.text, cut.reason) == ("", CUT[path])
    assert cut.calls == [("weather", "{}" if path == MESSAGES else '{"city": "Rome", "days": 1e999}')]
    assert cut.states == (["incomplete"] if path == RESPONSES else [])
