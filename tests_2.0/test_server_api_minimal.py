"""The server's complete answers, in the shapes of OpenAI's API."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from support.fake_host import MODEL, FakeHost, RunningServer, Script, http_client, serving

from mlxk2.runner.request import Message
from mlxk2.server.protocol import Embed
from mlxk2.server.settings import ServerSettings

pytest.importorskip("fastapi", reason="the server's packages are not installed")
HTTP = http_client()

HELLO = [{"role": "user", "content": "hello"}]
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serving(FakeHost()) as running:
        yield running


@pytest.fixture(autouse=True)
def fresh(server: RunningServer) -> None:
    server.host.script = Script()
    server.host.requests.clear()
    server.host.commands.clear()


def post(server: RunningServer, path: str, **body: Any) -> Any:
    response = HTTP.post(server.url + path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def chat(server: RunningServer, **body: Any) -> Any:
    return post(server, "/v1/chat/completions", messages=HELLO, **body)


def test_health_is_the_contracts(server: RunningServer) -> None:
    response = HTTP.get(server.url + "/health")
    assert (response.status_code, response.json()) == (200, {"status": "healthy", "service": "mlx-knife-server-2.0"})


def test_a_chat_completion_has_openais_shape(server: RunningServer) -> None:
    answer = chat(server, model=MODEL)
    assert answer["id"].startswith("chatcmpl-")
    assert answer["object"] == "chat.completion"
    assert isinstance(answer["created"], int)
    assert answer["model"] == MODEL
    assert answer["system_fingerprint"]
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello there!", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert answer["usage"] == {
        "prompt_tokens": 12,
        "completion_tokens": 3,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def test_sampling_reaches_the_host_and_openais_defaults_hold(server: RunningServer) -> None:
    chat(server)
    plain = server.host.requests[0].sampling
    assert (plain.temperature, plain.top_p, plain.repetition_penalty, plain.seed) == (1.0, 1.0, 1.0, None)
    chat(
        server, temperature=0, top_p=0.5, top_k=7, min_p=0.1, repetition_penalty=1.2, presence_penalty=-1,
        frequency_penalty=2, seed=9, logit_bias={"5": -100}, stop=["a", "b"], max_completion_tokens=8,
    )  # fmt: skip
    asked = server.host.requests[1]
    assert (asked.sampling.temperature, asked.sampling.top_p, asked.sampling.top_k, asked.sampling.min_p) == (
        0,
        0.5,
        7,
        0.1,
    )
    assert (asked.sampling.repetition_penalty, asked.sampling.presence_penalty, asked.sampling.frequency_penalty) == (
        1.2,
        -1,
        2,
    )
    assert (asked.sampling.seed, asked.sampling.logit_bias, asked.stop, asked.max_tokens) == (
        9,
        {5: -100},
        ("a", "b"),
        8,
    )


def test_null_means_not_given(server: RunningServer) -> None:
    names = (
        "temperature",
        "top_p",
        "max_tokens",
        "stop",
        "seed",
        "tools",
        "response_format",
        "stream",
        "stream_options",
        "n",
    )
    chat(server, **dict.fromkeys((*names, "logit_bias", "user", "logprobs", "top_logprobs")))
    assert server.host.requests[0].sampling.temperature == 1.0
    assert server.host.requests[0].max_tokens is None


def test_harmless_fields_change_nothing(server: RunningServer) -> None:
    chat(server, user="me", metadata={"a": "b"}, store=False, service_tier="auto", parallel_tool_calls=True)
    assert len(server.host.requests) == 1


ONE_CALL: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}], "parallel_tool_calls": False},
    "/v1/responses": {"input": "hi", "parallel_tool_calls": False},
    "/v1/messages": {
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 9,
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    },
}


@pytest.mark.parametrize("path", ONE_CALL)
def test_the_engine_is_told_who_takes_one_call(server: RunningServer, path: str) -> None:
    more = {**ONE_CALL[path]}
    more.pop("parallel_tool_calls", None), more.pop("tool_choice", None)
    for body in (ONE_CALL[path], more):
        assert HTTP.post(server.url + path, json=body).status_code == 200
    assert [request.parallel_tool_calls for request in server.host.requests] == [False, True]


def test_messages_become_turns(server: RunningServer) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Rome"}'}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "How is "}, {"type": "text", "text": "Rome?"}],
            "name": "ann",
        },
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "Look."},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    ]
    post(server, "/v1/chat/completions", messages=messages, tools=[WEATHER])
    system, user, assistant, tool = server.host.requests[0].messages
    assert system == Message("system", "Be brief.")
    assert (user.content, user.name) == ("How is Rome?", "ann")
    assert (assistant.content, assistant.reasoning) == ("", "Look.")
    assert [(one.id, one.name, one.arguments) for one in assistant.tool_calls] == [("c1", "weather", '{"city":"Rome"}')]
    assert (tool.role, tool.content, tool.tool_call_id) == ("tool", "sunny", "c1")


def test_several_choices_have_seeds_of_their_own(server: RunningServer) -> None:
    answer = chat(server, n=3, seed=2**64 - 1)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert [request.sampling.seed for request in server.host.requests] == [2**64 - 1, 0, 1]
    assert answer["usage"]["prompt_tokens"] == 12
    assert answer["usage"]["completion_tokens"] == 9


def test_logprobs_have_bytes(server: RunningServer) -> None:
    server.host.script = Script(words=("é",))
    choice = chat(server, logprobs=True, top_logprobs=1)["choices"][0]
    best = {"token": "é", "logprob": -0.25, "bytes": [0xC3, 0xA9]}
    assert choice["logprobs"] == {"content": [{**best, "top_logprobs": [best]}], "refusal": None}


def test_tool_calls_and_reasoning_are_apart_from_the_answer(server: RunningServer) -> None:
    calls = (("call_1", "weather", ('{"city":', '"Rome"}')), ("call_2", "weather", ("{}",)))
    server.host.script = Script(words=(), thoughts=("I ", "see"), calls=calls, reason="tool_calls")
    choice = chat(server, tools=[WEATHER], tool_choice={"type": "function", "function": {"name": "weather"}})[
        "choices"
    ][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert choice["message"]["reasoning_content"] == "I see"
    assert choice["message"]["tool_calls"] == [
        {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Rome"}'}},
        {"id": "call_2", "type": "function", "function": {"name": "weather", "arguments": "{}"}},
    ]
    asked = server.host.requests[0]
    assert (asked.tool_choice, asked.function_names) == ("weather", ("weather",))


def test_a_call_that_does_not_parse_is_text(server: RunningServer) -> None:
    server.host.script = Script(words=("so ",), calls=(("c", "weather", ("{oops",)),), lost_call="<call>{oops</call>")
    message = chat(server, tools=[WEATHER])["choices"][0]["message"]
    assert message["content"] == "so <call>{oops</call>"
    assert "tool_calls" not in message


def test_the_form_of_the_answer_becomes_a_constraint(server: RunningServer) -> None:
    pytest.importorskip("llguidance")
    schema = {"type": "object", "properties": {"a": {"enum": [None, 1]}}, "required": ["a"]}
    chat(
        server, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    )
    chat(server, response_format={"type": "json_object"})
    chat(server, response_format={"type": "text"})
    first, second, third = server.host.requests
    assert first.constraint is not None
    assert "null" in first.constraint.source
    assert second.constraint is not None
    assert second.constraint.source == '{"type":"object"}'
    assert third.constraint is None


def test_an_answer_that_is_not_what_was_asked_says_so(server: RunningServer) -> None:
    server.host.script = Script(words=('{"a":',), reason="length", value_problem="it is cut")
    choice = chat(server)["choices"][0]
    assert (choice["finish_reason"], choice["value_problem"]) == ("length", "it is cut")


def test_template_variables(server: RunningServer) -> None:
    chat(server, reasoning_effort="low", chat_template_kwargs={"enable_thinking": False, "x": 1})
    assert server.host.requests[0].template_variables == {"reasoning_effort": "low", "enable_thinking": False, "x": 1}


def test_a_completion_has_openais_shape(server: RunningServer) -> None:
    answer = post(server, "/v1/completions", prompt="Once", max_tokens=5, suffix="end", logprobs=1)
    assert answer["id"].startswith("cmpl-")
    assert answer["object"] == "text_completion"
    choice = answer["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("Hello there!", "stop")
    assert choice["logprobs"]["tokens"] == ["Hello", " there", "!"]
    assert choice["logprobs"]["token_logprobs"] == [-0.25] * 3
    assert choice["logprobs"]["text_offset"] == [0, 5, 11]
    assert choice["logprobs"]["top_logprobs"][0] == {"Hello": -0.25}
    asked = server.host.requests[0]
    assert (asked.prompt, asked.suffix, asked.max_tokens, asked.messages) == ("Once", "end", 5, None)


@pytest.mark.parametrize(
    ("prompt", "texts", "ids"),
    [
        ("a", ["a"], [None]),
        (["a", "b"], ["a", "b"], [None, None]),
        ([1, 2], [None], [(1, 2)]),
        ([[1], [2, 3]], [None, None], [(1,), (2, 3)]),
    ],
)
def test_every_kind_of_prompt(server: RunningServer, prompt: Any, texts: list[Any], ids: list[Any]) -> None:
    answer = post(server, "/v1/completions", prompt=prompt)
    asked = {(request.prompt, request.prompt_ids) for request in server.host.requests}
    assert asked == set(zip(texts, ids))
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(texts)))
    assert answer["usage"]["prompt_tokens"] == 12 * len(texts)


def test_echo_and_n(server: RunningServer) -> None:
    answer = post(server, "/v1/completions", prompt=["a ", "b "], echo=True, n=2)
    assert [choice["text"][:2] for choice in answer["choices"]] == ["a ", "a ", "b ", "b "]
    assert answer["usage"]["prompt_tokens"] == 24


def test_embeddings_as_numbers_and_as_base64(server: RunningServer) -> None:
    plain = post(server, "/v1/embeddings", input=["a", "b"], model=MODEL)
    assert [entry["index"] for entry in plain["data"]] == [0, 1]
    assert plain["data"][1]["embedding"] == [0.6, 0.8, 1.0]
    assert plain["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    packed = post(server, "/v1/embeddings", input=[[1, 2]], encoding_format="base64")["data"][0]["embedding"]
    assert math.isclose(struct.unpack("<3f", base64.b64decode(packed))[1], 0.8, rel_tol=1e-6)
    last = server.host.commands[-1]
    assert isinstance(last, Embed)
    assert last.inputs == ((1, 2),)


def test_metrics_count_requests_and_tokens(server: RunningServer) -> None:
    chat(server)
    text = HTTP.get(server.url + "/metrics").text
    assert 'mlxk2_requests_total{method="POST",route="/v1/chat/completions",status="200"}' in text
    for line in (
        "mlxk2_queue_length 2.0", "mlxk2_batch_size 1.0", 'mlxk2_memory_bytes{kind="active"} 100.0',
        'mlxk2_prefix_cache_lookups_total{result="hit"} 3.0', "mlxk2_engine_ready 1.0",
    ):  # fmt: skip
        assert line in text
    counts = {line.split(" ")[0]: float(line.split(" ")[1]) for line in text.splitlines() if not line.startswith("#")}
    assert counts['mlxk2_tokens_total{kind="completion"}'] >= 3
    assert counts["mlxk2_time_to_first_token_seconds_count"] >= 1
    assert counts["mlxk2_inter_token_seconds_count"] >= 2


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_ask_nobody_else(server: RunningServer, path: str) -> None:
    response = HTTP.get(server.url + path)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/html")
    assert "http://" not in response.text
    assert "https://" not in response.text
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "unsafe-inline" not in response.headers["content-security-policy"]


def test_the_openapi_document_knows_the_bodies(server: RunningServer) -> None:
    document = HTTP.get(server.url + "/openapi.json").json()
    body = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/ChatRequest"}
    text = str(document)
    wanted = {part.split("'")[0] for part in text.split("#/components/schemas/")[1:]}
    assert wanted <= set(document["components"]["schemas"])


def test_the_openapi_document_knows_the_answers() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    with serving(FakeHost(), ServerSettings(api_keys=("k",)), catalog=lambda: ()) as locked:
        document = HTTP.get(locked.url + "/openapi.json").json()
        headers = {"x-api-key": "k"}
        bodies = {**ONE_CALL, "/v1/completions": {"prompt": "hi"}, "/v1/embeddings": {"input": "hi"}}
        bodies["/v1/messages/count_tokens"] = {"messages": [{"role": "user", "content": "hi"}]}
        seen = 0
        for path, operations in document["paths"].items():
            method = next(iter(operations))
            told = HTTP.request(method, locked.url + path.format(name=MODEL), json=bodies.get(path), headers=headers)
            content = operations[method]["responses"]["200"]["content"]
            kind = told.headers["content-type"].partition(";")[0]
            assert (told.status_code, kind in content) == (200, True), path
            refused = HTTP.request(method, locked.url + path.format(name=MODEL), json=bodies.get(path))
            assert (refused.status_code == 401) is (operations[method].get("security") != []), path
            for answer, schema in ((told, content[kind]["schema"]), (refused, _error_schema(operations[method]))):
                if kind == "application/json" and answer.status_code in (200, 401):
                    schema = content[kind]["schema"] if answer.status_code == 200 else schema
                    whole = {**schema, "components": document["components"]}
                    jsonschema.validate(answer.json(), whole, jsonschema.Draft202012Validator)
                    seen += 1
        assert seen == 2 * (len(document["paths"]) - 1)
        assert document["security"] == [{"bearer": []}, {"key": []}]
        assert set(document["components"]["securitySchemes"]) == {"bearer", "key"}
        for path in (*ONE_CALL, "/v1/completions"):
            streamed = HTTP.post(locked.url + path, json={**bodies[path], "stream": True}, headers=headers)
            kind = streamed.headers["content-type"].partition(";")[0]
            assert kind in document["paths"][path]["post"]["responses"]["200"]["content"]


def _error_schema(operation: dict[str, Any]) -> Any:
    return operation["responses"]["4XX"]["content"]["application/json"]["schema"]
