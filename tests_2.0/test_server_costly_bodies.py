"""Bodies that cost more than they should: each is refused or answered for about what it weighs, and the others go on."""

from __future__ import annotations

import json
import threading
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from support.fake_host import FakeHost, RunningServer, http_client, serving
from support.processes import wait_until

pytest.importorskip("fastapi")

HTTP = http_client()
CHAT, TEXT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
EMBED = "/v1/embeddings"
HELLO = {"role": "user", "content": "hello"}
MANY = 60_000


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serving(FakeHost()) as running:
        yield running


def post(server: RunningServer, path: str, body: Any) -> Any:
    text = body if isinstance(body, (str, bytes)) else json.dumps(body)
    return HTTP.post(server.url + path, content=text, headers={"content-type": "application/json"})


def refusal(response: Any) -> str:
    assert response.status_code == 400, response.text[:500]
    error = response.json()["error"]
    assert len(error["message"]) < 1000
    return str(error["message"])


# --- one wrong value, or sixty thousand: one word -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        (TEXT, {"prompt": [True] * MANY}, "prompt"),
        (TEXT, {"prompt": [[True]] * MANY}, "prompt"),
        (EMBED, {"input": [1.5] * MANY}, "input"),
        (CHAT, {"messages": [1] * MANY}, "messages.0"),
        (CHAT, {"messages": [{"role": "user", "content": [1] * MANY}]}, "messages.0.content.0"),
        (CHAT, {"messages": [HELLO], "stop": [1] * MANY}, "stop.0"),
        (CHAT, {"messages": [HELLO], "tools": [1] * MANY}, "tools.0"),
        (CHAT, {"messages": [HELLO], "modalities": ["smell"] * MANY}, "modalities.0"),
        (CHAT, {"messages": [HELLO], "logit_bias": {str(number): "x" for number in range(MANY)}}, "logit_bias.0"),
        (CHAT, {"messages": [HELLO], **{f"x{number}": 1 for number in range(MANY)}}, "x0"),
        (CHAT, {"messages": [{**HELLO, **{f"x{number}": 1 for number in range(MANY)}}]}, "messages.0.x0"),
        (RESPONSES, {"input": [1] * MANY}, "input.0"),
        (RESPONSES, {"input": [{"role": "user", "content": [1] * MANY}]}, "input.0.content.0"),
        (MESSAGES, {"max_tokens": 1, "messages": [1] * MANY}, "messages.0"),
        (MESSAGES, {"max_tokens": 1, "messages": [HELLO], "system": [1] * MANY}, "system.0"),
        (
            MESSAGES,
            {"max_tokens": 1, "messages": [{**HELLO, "content": [{"type": "tool_result", "content": [1] * MANY}]}]},
            "messages.0.content.0",
        ),
    ],
    ids=lambda value: str(value)[:30],
)
def test_many_wrong_values_take_no_more_memory_than_one(
    server: RunningServer, path: str, body: dict[str, Any], named: str
) -> None:
    text = json.dumps(body)
    tracemalloc.start()
    try:
        said = refusal(post(server, path, text))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert said.startswith(f"{named}")
    assert peak < 60 * len(text)


def test_a_name_without_end_comes_back_with_an_end(server: RunningServer) -> None:
    assert refusal(post(server, CHAT, {"messages": [HELLO], "x" * 100_000: 1})).startswith("xxx")


def test_a_key_that_comes_twice_among_many_is_found_at_once(server: RunningServer) -> None:
    keys = [f'"{number:09}":1' for number in range(MANY)]
    # The server is a thread of this process.
    start = time.process_time()
    post(server, CHAT, '{"metadata":{' + ",".join(keys) + '},"messages":[]}')
    sound = time.process_time() - start
    said = refusal(post(server, CHAT, '{"metadata":{' + ",".join([*keys, keys[-1]]) + '},"messages":[]}'))
    assert f"'{MANY - 1:09}'" in said
    assert time.process_time() - start < 20 * sound


# --- how much there may be ----------------------------------------------------------------------------------------------

TOOL = {"type": "function", "function": {"name": "f{}"}}
CALL = {"id": "1", "type": "function", "function": {"name": "f"}}
MOST, FEW = 10_000, 1_000


@pytest.mark.parametrize(
    ("path", "field", "item", "most", "rest"),
    [
        (CHAT, "messages", HELLO, MOST, {}),
        (CHAT, "tools", TOOL, FEW, {"messages": [HELLO]}),
        (RESPONSES, "input", HELLO, MOST, {}),
        (MESSAGES, "messages", HELLO, MOST, {"max_tokens": 1}),
        (EMBED, "input", "a", 2048, {}),
        (EMBED, "input", [1], 2048, {}),
        (TEXT, "prompt", "a", 256, {}),
        (TEXT, "prompt", [1, 2], 64, {"n": 4}),
    ],
)
def test_lists_have_a_bound_that_is_told(
    server: RunningServer, path: str, field: str, item: Any, most: int, rest: dict[str, Any]
) -> None:
    asked = len(server.host.commands)
    # Each tool has a name of its own.
    items = [json.loads(json.dumps(item).replace("{}", str(number))) for number in range(most + 1)]
    said = refusal(post(server, path, {**rest, field: items}))
    assert said.startswith(field) and str(most) in said
    assert len(server.host.commands) == asked
    assert post(server, path, {**rest, field: items[:most]}).status_code == 200


@pytest.mark.parametrize(
    ("message", "field", "most"),
    [
        ({"role": "user", "content": [{"type": "text", "text": "a"}] * (MOST + 1)}, "content", MOST),
        ({"role": "assistant", "tool_calls": [CALL] * (FEW + 1)}, "tool_calls", FEW),
    ],
    ids=["parts", "calls"],
)
def test_parts_of_messages_have_a_bound_that_is_told(
    server: RunningServer, message: dict[str, Any], field: str, most: int
) -> None:
    said = refusal(post(server, CHAT, {"messages": [message]}))
    assert said.startswith(f"messages.0.{field}") and str(most) in said


MOST_VALUES = 2**20


def test_a_body_has_a_bound_of_values(server: RunningServer) -> None:
    def ids(count: int) -> bytes:
        return b'{"prompt":[' + b"1," * (count - 1) + b"1]}"

    assert post(server, TEXT, ids(MOST_VALUES)).status_code == 200
    assert f"more than {MOST_VALUES} values" in refusal(post(server, TEXT, ids(MOST_VALUES + 1)))


@pytest.mark.parametrize(
    "text",
    ["," * 2 * MOST_VALUES, '\\",' * MOST_VALUES, "\\\\," * MOST_VALUES + "\\\\", '\\\\\\",' * MOST_VALUES],
    ids=["commas", "quotes", "backslashes", "both"],
)
def test_commas_in_a_text_are_no_values(server: RunningServer, text: str) -> None:
    assert post(server, TEXT, f'{{"prompt":["a","{text}","b"]}}').status_code == 200


def test_values_after_a_text_are_counted(server: RunningServer) -> None:
    """A text that ends in a backslash ends where JSON says it does."""
    ids = "1," * (MOST_VALUES + 1) + "1"
    assert "values" in refusal(post(server, TEXT, f'{{"user":"a\\\\","prompt":[{ids}],"suffix":","}}'))
    assert "no JSON" in refusal(post(server, TEXT, '"' * 5 * MOST_VALUES + "," * MOST_VALUES))


@pytest.mark.parametrize(
    "arguments", ["{nonsense", '{"a":NaN}', '{"a":1e999}', '{"a":"\\ud800"}', '{"a":' * 5000, "[" * 100_000, "[1]"]
)
def test_arguments_of_a_call_are_taken_as_they_are(server: RunningServer, arguments: str) -> None:
    call = {**CALL, "function": {"name": "f", "arguments": arguments}}
    assert post(server, CHAT, {"messages": [{"role": "assistant", "tool_calls": [call]}]}).status_code == 200
    item = {"type": "function_call", "call_id": "1", "name": "f", "arguments": arguments}
    assert post(server, RESPONSES, {"input": [item]}).status_code == 200
    for request in server.host.requests[-2:]:
        assert [call.arguments for call in (request.messages or ())[-1].tool_calls] == [arguments]


def test_many_calls_in_a_row_are_one_turn(server: RunningServer) -> None:
    calls = [{"type": "function_call", "call_id": str(number), "name": "f"} for number in range(MOST - 2)]
    thought = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}
    assert post(server, RESPONSES, {"input": [HELLO, thought, *calls]}).status_code == 200
    user, assistant = server.host.requests[-1].messages or ()
    assert (user.role, user.tool_calls, assistant.role, assistant.reasoning) == ("user", (), "assistant", "hm")
    assert [call.id for call in assistant.tool_calls] == [call["call_id"] for call in calls]


# --- the others meanwhile -----------------------------------------------------------------------------------------------


def large_chat(messages: int) -> bytes:
    """Work for a while, and nothing to refuse."""
    parts = [{"type": "text", "text": "a"}] * 20
    return json.dumps({"messages": [{"role": "user", "content": parts}] * messages}).encode()


def test_others_are_answered_while_a_large_body_is_understood(server: RunningServer) -> None:
    body, answers = large_chat(6000), []
    client = threading.Thread(target=lambda: answers.append(post(server, CHAT, body)), daemon=True)
    start = last = time.perf_counter()
    longest = 0.0
    client.start()
    while not answers:
        assert HTTP.get(server.url + "/health").status_code == 200
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    client.join()
    assert answers[0].status_code == 200, answers[0].text
    # JSON is parsed in one call, during which nobody else has a turn; without the thread it would be all the time.
    assert longest < (last - start) * 2 / 3


def test_large_bodies_do_not_take_the_threads_that_others_need() -> None:
    body, done, count = large_chat(450), [], 40

    def ask(running: RunningServer) -> None:
        done.append(post(running, CHAT, body).status_code)

    with serving(FakeHost(), catalog=lambda: ()) as running:
        clients = [threading.Thread(target=ask, args=(running,), daemon=True) for _ in range(count)]
        for client in clients:
            client.start()
        wait_until(lambda: len(done) > 0)
        assert HTTP.get(running.url + "/v1/models").status_code == 200
        finished = len(done)
        for client in clients:
            client.join(60)
    assert done == [200] * count
    # What reads the disk did not stand in one line with the bodies.
    assert finished <= count / 3
