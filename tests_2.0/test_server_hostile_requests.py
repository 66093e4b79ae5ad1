"""Requests that break other servers get a clean answer, and the next one is answered by the same engine, as ever.

They are those that end `mlx_lm.server` (each also as the first request of an engine), or that it answers wrongly.
"""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.real_server import HI, MARKS, RealServer, real_server, refusal, said
from support.smollm2 import smollm2
from support.tiny_model import CHATML, TinyOptions, tiny_model

pytestmark = MARKS

VOCABULARY = 265
OBSTINATE = (
    "{% if messages[0].role != 'user' %}{{ raise_exception('users speak first') }}{% endif %}{# tools #}" + CHATML
)
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    folder = tmp_path_factory.mktemp("models")
    tiny = tiny_model(folder / "tiny", TinyOptions(chat_template=OBSTINATE))
    broken = tiny_model(folder / "broken")
    with real_server(tiny, broken) as started:
        weights = (broken / "model.safetensors").read_bytes()
        (broken / "model.safetensors").write_bytes(weights[: len(weights) // 2])
        yield started


@pytest.fixture(scope="module")
def usual(server: RealServer) -> str:
    """What a drawn answer is when nothing has happened."""
    return ask(server)


@pytest.fixture
def survivor(server: RealServer, usual: str) -> Iterator[RealServer]:
    """The server; after the test the same engine answers, and as ever."""
    engine = server.engine()
    yield server
    check_survival(server, engine, usual)


def check_survival(server: RealServer, engine: int, usual: str) -> None:
    assert ask(server) == usual
    # Drawn from the engine's own generator, which an error inside a sampler would leave unusable.
    assert server.chat(max_tokens=4, temperature=1.0, top_p=0.9, min_p=0.01, top_k=20).status_code == 200
    assert (server.engine(), server.status()["restarts"]) == (engine, 0)
    assert server.client.get("/health").json()["status"] == "healthy"


def ask(server: RealServer) -> str:
    return said(server.chat(max_tokens=8, temperature=1.0, seed=11))


# --- what kills `mlx_lm.server` ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/completions", {"prompt": ["hi", "yo"]}, 200),
        ("/v1/completions", {"prompt": ""}, 400),
        ("/v1/chat/completions", {"stop": 5}, 400),
        ("/v1/chat/completions", {"top_k": VOCABULARY}, 200),
        ("/v1/chat/completions", {"xtc_threshold": 0.9, "xtc_probability": 1.0}, 400),
        ("/v1/chat/completions", {"min_p": 1.5}, 400),
        ("/v1/chat/completions", {"logit_bias": {"99999999": 5}}, 400),
        ("/v1/completions", {"prompt": [VOCABULARY + 1]}, 400),
        ("/v1/completions", {"prompt": [999_999]}, 400),
    ],
    ids=lambda v: json.dumps(v)[:40],
)
def test_as_the_first_request_of_an_engine(
    server: RealServer, usual: str, path: str, body: dict[str, Any], status: int
) -> None:
    engine = server.fresh_engine()
    given = {"max_tokens": 4, **({"messages": HI} if "chat" in path else {}), **body}
    assert server.post(path, **given).status_code == status
    check_survival(server, engine, usual)


def test_a_list_of_prompts_is_answered_in_its_order(survivor: RealServer) -> None:
    both = survivor.complete(prompt=["hi", "the cat"], max_tokens=6, temperature=0)
    assert both.status_code == 200
    alone = [said(survivor.complete(prompt=one, max_tokens=6, temperature=0)) for one in ("hi", "the cat")]
    assert [choice["text"] for choice in both.json()["choices"]] == alone


@pytest.mark.parametrize("prompt", ["", [], [""], ["hi", ""], [[]], [[1], []]], ids=json.dumps)
def test_an_empty_prompt_is_refused(survivor: RealServer, prompt: Any) -> None:
    assert refusal(survivor.complete(prompt=prompt))["param"] == "prompt"


@pytest.mark.parametrize(
    "stop", [5, [1], "", [""], ["x", ""], [None], {}, ["x"] * 65, "x" * 2000], ids=lambda v: repr(v)[:20]
)
def test_what_is_no_stop_string_is_refused(survivor: RealServer, stop: Any) -> None:
    assert str(refusal(survivor.chat(stop=stop))["param"]).startswith("stop")


@pytest.mark.parametrize(
    "sampling",
    [
        {"top_k": VOCABULARY}, {"top_k": VOCABULARY + 1}, {"top_k": 10**30}, {"top_k": 0}, {"top_p": 1e-45}, {"top_p": 0.0},
        {"temperature": 1e-30}, {"temperature": 100.0}, {"min_p": 1.0}, {"min_p": 0.0}, {"repetition_penalty": 100.0},
        {"presence_penalty": 2.0, "frequency_penalty": -2.0}, {"top_k": 1, "min_p": 1.0, "top_p": 1e-9, "temperature": 50.0},
        {"logit_bias": {str(token): -100 for token in range(200)}}, {"logit_bias": {"0": 100.0}}, {"seed": 2**64 - 1},
    ],
    ids=lambda v: json.dumps(v)[:30],
)  # fmt: skip
def test_extreme_sampling_that_is_legal_is_answered(survivor: RealServer, sampling: dict[str, Any]) -> None:
    told = survivor.chat(max_tokens=3, **sampling)
    assert told.status_code == 200, told.text
    assert 1 <= told.json()["usage"]["completion_tokens"] <= 3


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("top_k", -1), ("top_k", 1.5), ("xtc_threshold", 0.9), ("xtc_probability", 0.5), ("min_p", 2),
        ("min_p", -1), ("top_p", 1.5), ("top_p", -0.1), ("temperature", -1), ("temperature", 1e308),
        ("temperature", "hot"), ("repetition_penalty", 0), ("repetition_penalty", 1e-300), ("repetition_penalty", -1),
        ("presence_penalty", 3), ("frequency_penalty", 1e300), ("logit_bias", {"99999999": 5}), ("logit_bias", {"-1": 5}),
        ("logit_bias", {"x": 5}), ("logit_bias", {str(VOCABULARY + 10): 1}), ("logit_bias", {"1": 1e300}),
        ("logit_bias", [1]), ("seed", -1), ("seed", 2**70), ("seed", 1.5), ("n", 0), ("n", 10**9),
    ],
    ids=lambda v: json.dumps(v)[:20],
)  # fmt: skip
def test_sampling_that_would_hurt_is_refused_by_name(survivor: RealServer, field: str, value: Any) -> None:
    assert str(refusal(survivor.chat(**{field: value}))["param"]).startswith(field)


@pytest.mark.parametrize("token", [-1, VOCABULARY + 3, 999_999, 2**31, 2**63, 10**30, 1.5])
def test_ids_that_are_no_tokens_are_refused(survivor: RealServer, token: Any) -> None:
    for prompt in ([token], [1, 2, token], [[1], [token]]):
        assert str(refusal(survivor.complete(prompt=prompt))["param"]).startswith("prompt")


def test_bad_requests_disturb_no_others(survivor: RealServer) -> None:
    """In the middle of a stream: its text is that of a stream nobody disturbed."""

    def text() -> str:
        body = {"messages": HI, "max_tokens": 100, "seed": 5, "stream": True, "model": survivor.model}
        found = ""
        with survivor.client.stream("POST", "/v1/chat/completions", json=body) as answer:
            for number, line in enumerate(line for line in answer.iter_lines() if line.startswith("data: {")):
                found += json.loads(line[6:])["choices"][0]["delta"].get("content") or ""
                if number == 3 and is_disturbed:
                    refusal(survivor.complete(prompt=[999_999]))
                    refusal(survivor.chat(logit_bias={"99999999": 5}))
                    said(survivor.complete(prompt=["a", "b"], max_tokens=2, top_k=10**6))
        return found

    is_disturbed = False
    before = text()
    is_disturbed = True
    assert text() == before


# --- what it answers wrongly, or lacks --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"\xff\xfe", 400), (b"{", 400), (b"[]", 400), (b"null", 400), (b"", 400), (b'{"messages": "\xc3\x28"}', 400),
        (b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400),
        (b'{"prompt": "\\ud800"}', 400), (b'{"temperature": NaN}', 400), (b'{"seed": ' + b"9" * 5000 + b"}", 400),
    ],
    ids=lambda v: repr(v)[:24],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/messages"])
def test_bytes_that_are_no_request_are_a_400(survivor: RealServer, path: str, body: bytes, status: int) -> None:
    answer = survivor.client.post(path, content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, "error" in answer.json()) == (status, True)


@pytest.mark.parametrize(
    "name", ["temperature", "max_tokens", "stop", "tools", "logit_bias", "seed", "n", "response_format"]
)
def test_null_is_not_given(survivor: RealServer, name: str) -> None:
    given = {"max_tokens": 2, name: None}
    assert survivor.chat(**given).status_code == 200


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"adapters": "x"}, "adapters"), ({"draft_model": "x"}, "draft_model"), ({"role_mapping": {}}, "role_mapping"),
        ({"functions": []}, "functions"), ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        ({"response_format": {"type": "xml"}}, "response_format"), ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"), ({"messages": [{"role": "user"}]}, "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages"), ({"model": 5}, "model"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
    ],
    ids=lambda v: json.dumps(v)[:30],
)  # fmt: skip
def test_what_is_not_supported_is_named(survivor: RealServer, change: dict[str, Any], param: str) -> None:
    error = refusal(survivor.chat(**change))
    assert str(error["param"]).startswith(param)


def test_a_template_that_refuses_is_a_400_in_its_own_words(survivor: RealServer) -> None:
    answer = survivor.chat(messages=[{"role": "system", "content": "x"}, *HI])
    error = refusal(answer)
    assert ("users speak first" in error["message"], error["param"]) == (True, "messages")


@pytest.mark.parametrize("variables", [{"bos_token": 5}, {"x": [[{}]] * 50}, {"raise_exception": 1}], ids=json.dumps)
def test_strange_variables_of_the_template_do_no_harm(survivor: RealServer, variables: Any) -> None:
    assert survivor.chat(max_tokens=2, chat_template_kwargs=variables).status_code in (200, 400)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "(a*)*(b"}, {"$ref": "http://127.0.0.1:1/x"}, {"$ref": "#/nowhere"}, {"type": "nonsense"},
        {"enum": []}, {"type": "string", "minLength": 10**12}, {"allOf": [{"type": "string"}, {"type": "number"}]},
    ],
    ids=json.dumps,
)  # fmt: skip
def test_a_schema_that_nothing_fits_is_no_crash(survivor: RealServer, schema: Any) -> None:
    pytest.importorskip("llguidance")
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert refusal(survivor.chat(max_tokens=5, response_format=wanted))["param"] == "response_format"


def endless(links: int) -> dict[str, Any]:
    """A chain of references that overflowed the stack of whoever compiled it."""
    steps = {f"d{i}": {"type": "object", "properties": {"a": {"$ref": f"#/$defs/d{i + 1}"}}} for i in range(links)}
    return {"$defs": {**steps, f"d{links}": {"type": "string"}}, "$ref": "#/$defs/d0"}


@pytest.mark.parametrize("links", [999, 1500, 3000])
def test_a_chain_of_references_ends_nobody(survivor: RealServer, links: int) -> None:
    pytest.importorskip("llguidance")
    schema = endless(links)
    status = 200 if links < 1000 else 400
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert survivor.chat(max_tokens=2, response_format=wanted).status_code == status
    parameters = {"type": "object", "properties": {"x": {"$ref": "#/$defs/d0"}}, "$defs": schema["$defs"]}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    answer = survivor.chat(max_tokens=2, tools=[tool], tool_choice="required")
    assert answer.status_code == status
    if status == 400:
        assert refusal(answer)["param"] == "tools"
    assert survivor.server.process.poll() is None


def test_a_bad_schema_is_a_400_before_a_stream_begins(survivor: RealServer) -> None:
    pytest.importorskip("llguidance")
    schema = {"type": "string", "pattern": "(a*)*(b"}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert refusal(survivor.chat(stream=True, response_format=wanted))["param"] == "response_format"
    form = {"type": "json_schema", "name": "x", "schema": schema}
    error = refusal(survivor.post("/v1/responses", input="hi", text={"format": form}))
    assert (error["param"], error["message"].split()[0]) == ("text.format", "text.format")


def test_a_recursive_schema_is_answered(survivor: RealServer) -> None:
    pytest.importorskip("llguidance")
    schema = {"$ref": "#/$defs/t", "$defs": {"t": {"type": "array", "maxItems": 2, "items": {"$ref": "#/$defs/t"}}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert survivor.chat(max_tokens=20, response_format=wanted).status_code == 200


@pytest.mark.parametrize(
    "text",
    ["<|im_end|>" * 5, "<|bos|><|eos|>", "\0", "👩‍👩‍👧‍👦" * 3, "\u202e\ufffe", "{{ 7 * 7 }}{% raw %}"],
    ids=ascii,
)
def test_strange_text_is_text(survivor: RealServer, text: str) -> None:
    assert survivor.chat(max_tokens=2, messages=[{"role": "user", "content": text}]).status_code == 200
    assert survivor.complete(max_tokens=2, prompt=text).status_code == 200


def test_a_huge_prompt_is_refused_for_its_length(survivor: RealServer) -> None:
    answer = survivor.chat(messages=[{"role": "user", "content": "the " * 100_000}])
    assert refusal(answer)["code"] == "context_length_exceeded"


def test_a_prompt_of_megabytes_is_refused_at_once(survivor: RealServer) -> None:
    answer = survivor.complete(prompt="the cat sat on the mat. " * 300_000)
    error = refusal(answer)
    assert (error["code"], "at least" in error["message"]) == ("context_length_exceeded", True)


@pytest.mark.parametrize(
    "name",
    ["no/such-model", "/etc/passwd", "../../x", "a" * 10_000, "\0", "", "models--a--b", "http://127.0.0.1:1/x"],
    ids=repr,
)
def test_an_unknown_model_is_a_fast_404_that_unloads_nothing(survivor: RealServer, name: str) -> None:
    answer = survivor.chat(model=name)
    assert (answer.status_code, refusal(answer)["type"]) in (
        (404, "invalid_request_error"),
        (400, "invalid_request_error"),
    )
    assert answer.elapsed.total_seconds() < 10


def test_a_model_that_cannot_be_loaded_says_so_and_unloads_nothing(survivor: RealServer) -> None:
    broken = str(Path(survivor.model).with_name("broken"))
    answer = survivor.chat(model=broken)
    assert 400 <= answer.status_code <= 503
    assert answer.json()["error"]["code"] == "model_unhealthy"


def test_no_address_in_a_request_is_ever_asked(survivor: RealServer) -> None:
    with socket.socket() as trap:
        trap.bind(("127.0.0.1", 0))
        trap.listen()
        trap.settimeout(0)
        url = f"http://127.0.0.1:{trap.getsockname()[1]}/x.png"
        part = {"type": "image_url", "image_url": {"url": url}}
        for answer in (
            survivor.chat(messages=[{"role": "user", "content": [part]}]),
            survivor.post(
                "/v1/responses", input=[{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]
            ),
            survivor.chat(
                response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": url}}}
            ),
        ):
            refusal(answer)
        source = {"type": "url", "url": url}
        content = [{"type": "image", "source": source}]
        answer = survivor.post("/v1/messages", max_tokens=1, messages=[{"role": "user", "content": content}])
        assert (answer.status_code, answer.json()["type"]) == (400, "error")
        with pytest.raises(BlockingIOError):
            trap.accept()


def test_who_may_not_ask_is_refused(survivor: RealServer) -> None:
    body = json.dumps({"model": survivor.model, "messages": HI})
    json_type = {"content-type": "application/json"}
    for headers, status in (
        ({"content-type": "text/plain"}, 415),
        ({**json_type, "host": "evil.example"}, 403),
        ({**json_type, "origin": "https://evil.example"}, 403),
    ):
        answer = survivor.client.post("/v1/chat/completions", content=body, headers=headers)
        assert (answer.status_code, refusal(answer)["message"] != "") == (status, True)
        assert "access-control-allow-origin" not in answer.headers
    with socket.create_connection(("127.0.0.1", survivor.server.port)) as connection:
        connection.settimeout(20)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {10 * 2**30}\r\n"
        connection.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_without_a_cache_there_are_no_models_and_no_error(tmp_path: Path) -> None:
    env = {"HF_HOME": str(tmp_path / "nothing"), "HOME": str(tmp_path)}
    with real_server(env=env) as empty:
        told = empty.client.get("/v1/models")
        assert (told.status_code, told.json()) == (200, {"object": "list", "data": []})
        assert refusal(empty.post("/v1/chat/completions", model="x/y", messages=HI))["code"] == "model_not_found"


def test_a_model_whose_files_vanish_is_an_error_and_comes_back(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "tiny")
    with real_server(folder) as server:
        server.client.post(f"/v1/models/{folder}/unload")
        shutil.move(folder, tmp_path / "away")
        answer = server.chat(max_tokens=2)
        assert 400 <= answer.status_code <= 503 and answer.json()["error"]["message"]
        shutil.move(tmp_path / "away", folder)
        assert server.chat(max_tokens=2).status_code == 200


@pytest.mark.smollm2
def test_stop_strings_are_cut_out_whole_wherever_tokens_end() -> None:
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    whole = "The capital of France is Paris."
    with real_server(smollm2()) as server:
        for stop in ("Paris", "capital of", "apital of Fr", " Paris", "nowhere", "."):
            told = server.chat(messages=messages, stop=[stop], temperature=0)
            assert said(told) == whole.split(stop)[0]
            assert told.json()["choices"][0]["finish_reason"] == "stop"
