"""Schemathesis against our own OpenAPI document: whatever comes, never a 5xx, always a body of the documented shape.

Each body is what schemathesis makes of the schema, or a sound request with some of its fields; both are bounded in number
and in time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import strategies as st
from support.real_server import HI, MARKS, RealServer, real_server
from support.tiny_model import TinyOptions, tiny_model

schemathesis = pytest.importorskip("schemathesis")

pytestmark = MARKS

CASES = 25
SECONDS = 5.0
BOUNDS = settings(
    max_examples=CASES,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    verbosity=Verbosity.quiet,
    suppress_health_check=list(HealthCheck),
)
TURN = {"messages": HI}
# What a request needs at least; on top of it one field after the other is what the fuzzer says.
SOUND: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {**TURN, "max_tokens": 2},
    "/v1/completions": {"prompt": "hi", "max_tokens": 2},
    "/v1/responses": {"input": "hi", "max_output_tokens": 2},
    "/v1/messages": {**TURN, "max_tokens": 2},
    "/v1/messages/count_tokens": TURN,
    "/v1/embeddings": {"input": "hi"},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    with real_server(tiny_model(tmp_path_factory.mktemp("models") / "tiny")) as started:
        yield started


@pytest.fixture(scope="module")
def document(server: RealServer) -> Any:
    return schemathesis.openapi.from_dict(server.client.get("/openapi.json").json())


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    options = TinyOptions(model_type="qwen3", chat_template=None)
    with real_server(tiny_model(tmp_path_factory.mktemp("models") / "embedder", options)) as started:
        yield started


@pytest.fixture
def asked(path: str, request: pytest.FixtureRequest) -> Iterator[RealServer]:
    """The server that answers at `path`; its engine is the same one before and after, and answers."""
    server: RealServer = request.getfixturevalue("embedder" if path == "/v1/embeddings" else "server")
    engine = server.engine()
    yield server
    server.wait_until_idle()
    assert server.post(path, **SOUND[path]).status_code == 200
    assert (server.engine(), server.status()["restarts"]) == (engine, 0)


def check(answer: Any, sent: object) -> None:
    told = (answer.request.method, answer.request.url.path, sent, answer.status_code, answer.text[:500])
    assert answer.status_code < 500, told
    if answer.status_code >= 400:
        body = json.loads(answer.text)
        assert isinstance(body["error"]["message"], str) and body["error"]["message"], told
        assert isinstance(body["error"]["type"], str), told


def within_time() -> Any:
    end = time.monotonic() + SECONDS
    return lambda: time.monotonic() < end


def test_the_document_has_every_address_that_takes_a_body(document: Any) -> None:
    paths = {operation.ok().path for operation in document.get_all_operations()}
    assert set(SOUND) <= paths
    assert {"/health", "/metrics", "/v1/models", "/v1/models/{name}", "/v1/status"} <= {
        path.replace(":path", "") for path in paths
    }


@pytest.mark.parametrize("mode", schemathesis.GenerationMode, ids=lambda mode: mode.value)
@pytest.mark.parametrize("path", SOUND)
def test_bodies_that_the_document_makes(asked: RealServer, document: Any, path: str, mode: Any) -> None:
    is_time_left = within_time()

    @BOUNDS
    @given(document[path]["POST"].as_strategy(generation_mode=mode))
    def fuzz(case: Any) -> None:
        if not is_time_left():
            return
        body = case.body
        if isinstance(body, dict) and "model" in body:
            body = {**body, "model": asked.model}
        content = json.dumps(body) if isinstance(body, (dict, list, str, int, float, bool, type(None))) else b"\xff"
        check(asked.client.post(path, content=content, headers={"content-type": "application/json"}), body)

    fuzz()


@pytest.mark.parametrize("path", SOUND)
def test_sound_requests_with_some_fields_that_the_document_makes(asked: RealServer, document: Any, path: str) -> None:
    is_time_left = within_time()

    @BOUNDS
    @given(document[path]["POST"].as_strategy(), st.randoms(use_true_random=False))
    def fuzz(case: Any, draw: Any) -> None:
        if not is_time_left() or not isinstance(case.body, dict):
            return
        names = sorted(set(case.body) - {"model", *SOUND[path]})
        some = {name: case.body[name] for name in draw.sample(names, min(len(names), 2))}
        body = {**SOUND[path], **some}
        check(asked.post(path, **body), body)

    fuzz()


def test_addresses_that_only_tell(server: RealServer, document: Any) -> None:
    is_time_left = within_time()
    paths = [operation.ok() for operation in document.get_all_operations() if operation.ok().method.upper() == "GET"]

    @BOUNDS
    @given(st.one_of([operation.as_strategy() for operation in paths]))
    def fuzz(case: Any) -> None:
        if is_time_left():
            check(server.client.request("GET", case.formatted_path), case.formatted_path)

    fuzz()
