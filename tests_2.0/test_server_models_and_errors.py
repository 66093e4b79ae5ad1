"""What the server says of its models, and to requests that it cannot answer; afterwards it answers the next one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from support.fake_host import MODEL, PART, FakeHost, RunningServer, Script, http_client, serving

from mlxk2 import errors
from mlxk2.inspection.describe import ModelInfo
from mlxk2.server.host_types import FAILED, RESTARTING
from mlxk2.server.settings import ServerSettings

pytest.importorskip("fastapi", reason="the server's packages are not installed")
HTTP = http_client()

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "hello"}]


def info(name: str, health: str = "healthy", runs: bool = True) -> ModelInfo:
    return ModelInfo(
        name, "0" * 40, 1, "2025-01-01T00:00:00Z", "MLX", "chat", ("text-generation", "chat"), health, runs, None, True,
        8192, None, 1, "cache",
    )  # fmt: skip


CATALOG = (info("org/other"), info(MODEL), info("org/broken", health="unhealthy"), info("org/old", runs=False))


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serving(FakeHost(), ServerSettings(request_timeout_s=5), catalog=lambda: CATALOG) as running:
        yield running


@pytest.fixture(autouse=True)
def fresh(server: RunningServer) -> Iterator[None]:
    host = server.host
    host.script, host.state, host.problem, host.loaded = Script(), "ready", None, MODEL
    yield
    answer = HTTP.post(server.url + CHAT, json={"messages": HELLO})
    assert answer.status_code == 200 or host.script.error or host.script.bug, "the next request must be answered"


def refusal(response: Any, status: int = 400) -> Any:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return error


def test_models_are_those_that_can_be_asked(server: RunningServer) -> None:
    answer = HTTP.get(server.url + "/v1/models").json()
    assert answer["object"] == "list"
    assert [model["id"] for model in answer["data"]] == ["org/other", MODEL]
    assert answer["data"][0] == {
        "id": "org/other", "object": "model", "created": 1735689600, "owned_by": "org", "context_length": 8192,
        "capabilities": ["text-generation", "chat"], "loaded": False,
    }  # fmt: skip
    assert (answer["data"][1]["loaded"], answer["data"][1]["tool_calls"]) == (True, "found")


def test_one_model_by_its_name(server: RunningServer) -> None:
    assert HTTP.get(server.url + "/v1/models/org/other").json()["id"] == "org/other"
    error = refusal(HTTP.get(server.url + "/v1/models/org/broken"), 404)
    assert error["code"] == "model_not_found"


@pytest.mark.parametrize("name", ["..%2f..%2fetc%2fpasswd", "%00", "/etc/passwd", "a" * 5000])
def test_names_are_no_paths(server: RunningServer, name: str) -> None:
    assert HTTP.get(f"{server.url}/v1/models/{name}").status_code == 404


def test_load_and_unload(server: RunningServer) -> None:
    assert HTTP.post(f"{server.url}/v1/models/{MODEL}/unload").json()["loaded"] is False
    assert server.host.loaded is None
    assert HTTP.post(f"{server.url}/v1/models/{MODEL}/load").json()["loaded"] is True
    assert server.host.loaded == MODEL
    assert HTTP.post(f"{server.url}/v1/models/{PART}/load").json()["id"] == MODEL
    assert HTTP.post(f"{server.url}/v1/models/{PART}/unload").json()["id"] == MODEL
    refusal(HTTP.post(f"{server.url}/v1/models/org/nobody/load"), 404)
    refusal(HTTP.post(f"{server.url}/v1/models/org/nobody/unload"), 404)


@pytest.mark.parametrize("verb", ["load", "unload"])
@pytest.mark.parametrize(
    ("kind", "body", "status", "words"),
    [
        (None, b"", 200, ""),
        ("text/plain", b"", 200, ""),
        ("application/json", b" {} ", 200, ""),
        ("application/json", b'{"a": null}', 200, ""),
        ("text/plain", b"{}", 415, "application/json"),
        (None, b"{}", 415, "application/json"),
        ("application/x-www-form-urlencoded", b"a=b", 415, "application/json"),
        ("application/json", b'{"keep_alive": 5}', 400, "keep_alive: this field is not supported"),
        ("application/json", b"[]", 400, "object"),
        ("application/json", b"{", 400, "JSON"),
        ("application/json", b" " * 5000, 413, "4096"),
    ],
)
def test_load_and_unload_take_no_body_but_an_empty_one(
    server: RunningServer, verb: str, kind: str | None, body: bytes, status: int, words: str
) -> None:
    headers = {} if kind is None else {"content-type": kind}
    answer = HTTP.post(f"{server.url}/v1/models/{MODEL}/{verb}", content=body, headers=headers)
    if status == 200:
        assert answer.json()["loaded"] is (verb == "load")
    else:
        assert words in refusal(answer, status)["message"]
        assert server.host.loaded == MODEL


ASKING: dict[str, tuple[dict[str, Any], str]] = {
    CHAT: ({"messages": HELLO}, "messages"),
    TEXT: ({"prompt": "a"}, "prompt"),
    "/v1/responses": ({"input": "a"}, "input"),
    "/v1/embeddings": ({"input": "a"}, "input"),
}


@pytest.mark.parametrize("path", ASKING)
def test_an_unknown_model_is_a_404(server: RunningServer, path: str) -> None:
    error = refusal(HTTP.post(server.url + path, json={**ASKING[path][0], "model": "nobody"}), 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")


@pytest.mark.parametrize("path", ASKING)
def test_a_prompt_that_is_too_long_is_named_as_the_api_names_it(server: RunningServer, path: str) -> None:
    body, param = ASKING[path]
    server.host.script = Script(error=errors.ContextLengthExceeded("5 and 4"))
    error = refusal(HTTP.post(server.url + path, json=body))
    assert (error["code"], error["param"]) == ("context_length_exceeded", param)


@pytest.mark.parametrize("state", [RESTARTING, FAILED])
def test_health_tells_the_truth(server: RunningServer, state: str) -> None:
    server.host.state, server.host.problem = state, "it crashed"
    response = HTTP.get(server.url + "/health")
    assert response.status_code == 503
    # Anybody may ask for this: what went wrong may name models and files, and is for those who have the key.
    assert response.json() == {"status": "unhealthy", "service": "mlx-knife-server-2.0", "state": state}
    assert HTTP.get(server.url + "/v1/status").json()["problem"] == "it crashed"


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (errors.ContextLengthExceeded("5 and 4"), 400, "invalid_request_error"),
        (errors.InsufficientMemory("too big"), 413, "invalid_request_error"),
        (errors.QueueFull("full", retry_after_s=3), 429, "rate_limit_error"),
        (errors.EngineLost("gone"), 503, "server_error"),
        (errors.InternalError("oh"), 500, "server_error"),
    ],
)
def test_errors_of_the_host_keep_their_status(
    server: RunningServer, error: errors.MlxkError, status: int, kind: str
) -> None:
    server.host.script = Script(error=error)
    response = HTTP.post(server.url + CHAT, json={"messages": HELLO})
    told = refusal(response, status)
    assert (told["type"], told["code"], told["message"]) == (kind, error.type, error.message)
    assert ("retry-after" in response.headers) == (status in (429, 503))


def test_a_bug_is_a_500_and_no_traceback(server: RunningServer) -> None:
    server.host.script = Script(bug=True)
    response = HTTP.post(server.url + CHAT, json={"messages": HELLO}, headers={"x-request-id": "mine"})
    told = refusal(response, 500)
    assert "secret" not in json.dumps(told)
    assert response.headers["x-request-id"] == "mine"


def test_an_answer_takes_no_longer_than_it_may(server: RunningServer) -> None:
    with serving(FakeHost(Script(hold=True)), ServerSettings(request_timeout_s=0.2)) as short:
        told = refusal(HTTP.post(short.url + CHAT, json={"messages": HELLO}), 504)
        assert told["code"] == "request_timed_out"
        assert short.host.cancelled == 1


IMAGE = {"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/x.png"}}
BAD_CHATS: list[tuple[dict[str, Any], str]] = [
    ({"messages": 5}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "king", "content": "x"}]}, "messages.0.role"),
    ({"messages": [{"role": "user"}]}, "messages.0.content"),
    ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages.0.content.0"),
    ({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]}, "messages.0.content.0"),
    ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "nobody"}]}, "messages"),
    ({"model": 5}, "model"),
    ({"stop": 5}, "stop"),
    ({"stop": [1]}, "stop.0"),
    ({"stop": ""}, "stop"),
    ({"stop": ["a", ""]}, "stop"),
    ({"top_k": -1}, "top_k"),
    ({"top_k": 1.5}, "top_k"),
    ({"min_p": 1.5}, "min_p"),
    ({"top_p": "1"}, "top_p"),
    ({"temperature": -1}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"seed": -1}, "seed"),
    ({"seed": 2**70}, "seed"),
    ({"seed": "1"}, "seed"),
    ({"n": 0}, "n"),
    ({"n": 99999}, "n"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_completion_tokens": -5}, "max_completion_tokens"),
    ({"max_tokens": "5"}, "max_tokens"),
    ({"logit_bias": {"x": 5}}, "logit_bias"),
    ({"logit_bias": {"-1": 5}}, "logit_bias"),
    ({"logit_bias": {"5": 101}}, "logit_bias"),
    ({"logit_bias": {"5": "x"}}, "logit_bias.5"),
    ({"logit_bias": {"9" * 5000: 5}}, "logit_bias"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"xtc_threshold": 0.9}, "xtc_threshold"),
    ({"adapters": "/etc"}, "adapters"),
    ({"draft_model": "x"}, "draft_model"),
    ({"functions": []}, "functions"),
    ({"audio": {}}, "audio"),
    ({"modalities": ["audio"]}, "modalities.0"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format"),
    ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
]


@pytest.mark.parametrize(("change", "param"), BAD_CHATS, ids=lambda value: str(value)[:40])
def test_a_bad_chat_names_the_field(server: RunningServer, change: dict[str, Any], param: str) -> None:
    before = len(server.host.requests)
    error = refusal(HTTP.post(server.url + CHAT, json={"messages": HELLO, **change}))
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert param.split(".")[0] in error["message"]
    assert len(server.host.requests) == before


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": ""}, {"prompt": []}, {"prompt": ["a", ""]}, {"prompt": [[]]}, {"prompt": [-1]}, {"prompt": [2**70]},
        {"prompt": [1.5]}, {"prompt": [True]}, {"prompt": None}, {"prompt": ["a", [1]]}, {"prompt": {"a": 1}},
        {"logprobs": 21}, {"best_of": 3}, {"echo": True, "prompt": [1]}, {"suffix": "x", "prompt": [1]}, {"max_tokens": 0},
    ],
    ids=str,
)  # fmt: skip
def test_a_bad_completion_is_refused(server: RunningServer, change: dict[str, Any]) -> None:
    error = refusal(HTTP.post(server.url + TEXT, json={"prompt": "a", **change}))
    assert error["param"].split(".")[0] in (*change, "prompt", "top_logprobs")


@pytest.mark.parametrize(
    "change", [{"dimensions": 5}, {"input": ""}, {"input": []}, {"encoding_format": "hex"}], ids=str
)
def test_bad_embeddings_are_refused(server: RunningServer, change: dict[str, Any]) -> None:
    error = refusal(HTTP.post(server.url + "/v1/embeddings", json={"input": "a", **change}))
    assert error["param"] == next(iter(change))


@pytest.mark.parametrize(
    "change",
    [
        {"previous_response_id": "resp_1"}, {"background": True}, {"conversation": "c"}, {"truncation": "auto"},
        {"tools": [{"type": "web_search"}]}, {"input": []}, {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
        {"input": [{"type": "item_reference", "id": "x"}]}, {"max_output_tokens": 0}, {"max_tool_calls": 1},
    ],
    ids=str,
)  # fmt: skip
def test_bad_responses_are_refused(server: RunningServer, change: dict[str, Any]) -> None:
    error = refusal(HTTP.post(server.url + "/v1/responses", json={"input": "a", **change}))
    assert error["param"].split(".")[0] == next(iter(change))


@pytest.mark.parametrize(
    "change",
    [
        {"max_tokens": None}, {"max_tokens": 0}, {"top_k": -1}, {"mcp_servers": []}, {"stop_sequences": [""]},
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "http://127.0.0.1:9/"}}]}]},
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, {"tool_choice": {"type": "any"}},
    ],
    ids=str,
)  # fmt: skip
def test_bad_messages_are_refused_in_anthropics_shape(server: RunningServer, change: dict[str, Any]) -> None:
    response = HTTP.post(server.url + "/v1/messages", json={"messages": HELLO, "max_tokens": 5, **change})
    assert response.status_code == 400, response.text
    answer = response.json()
    assert answer["type"] == "error"
    assert answer["error"]["type"] == "invalid_request_error"
    assert next(iter(change)) in answer["error"]["message"]


BAD_BODIES = [
    b"", b"{", b"[]", b"5", b"null", b"\xff\xfe", b'{"messages": "\xff"}', b'{"temperature": NaN}',
    b'{"messages": ' + b"[" * 100_000, b'{"metadata": ' + b'{"a":' * 100 + b"1" + b"}" * 101,
    b'{"messages": [{"role": "user", "content": "\\ud800"}]}', b'{"user": "\\udfff", "messages": []}',
    b'{"seed": ' + b"9" * 10_000 + b"}", b'{"temperature": 1e999, "messages": [{"role": "user", "content": "x"}]}',
]  # fmt: skip


@pytest.mark.parametrize("body", BAD_BODIES, ids=lambda body: str(body[:30]))
@pytest.mark.parametrize("path", [CHAT, TEXT, "/v1/messages"])
def test_bodies_that_are_no_json_are_a_400(server: RunningServer, path: str, body: bytes) -> None:
    response = HTTP.post(server.url + path, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_what_is_not_there_is_a_404_and_wrong_methods_a_405(server: RunningServer) -> None:
    assert refusal(HTTP.get(server.url + "/v1/nothing"), 404)["code"] == "not_found"
    for method, path, allowed in (
        ("GET", CHAT, "POST"),
        ("HEAD", CHAT, "POST"),
        ("OPTIONS", CHAT, "POST"),
        ("DELETE", "/v1/models", "GET, HEAD"),
        ("POST", f"/v1/models/{MODEL}", "GET, HEAD"),
        ("GET", f"/v1/models/{MODEL}/load", "POST"),
        ("HEAD", f"/v1/models/{MODEL}/unload", "POST"),
        ("DELETE", f"/v1/models/{MODEL}/unload", "POST"),
        ("OPTIONS", "/", "GET, HEAD"),
    ):
        response = HTTP.request(method, server.url + path)
        assert (response.status_code, response.headers["allow"]) == (405, allowed), (method, path)
        assert method == "HEAD" or refusal(response, 405)["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/docs",
        "/health",
        "/v1/models",
        f"/v1/models/{MODEL}",
        "/v1/models/org/nobody",
        "/v1/status",
        "/openapi.json",
    ],
)
def test_head_is_get_without_a_body(server: RunningServer, path: str) -> None:
    whole, head = HTTP.get(server.url + path), HTTP.head(server.url + path)
    # How long the server is up takes more digits now and then.
    changing = ("date", "x-request-id", *(("content-length",) if path == "/v1/status" else ()))
    told = [{name: value for name, value in one.headers.items() if name not in changing} for one in (whole, head)]
    assert (whole.status_code, told[0]) == (head.status_code, told[1])
    assert (head.content, whole.content != b"") == (b"", True)
