"""Who is let in, what is read of a body, and what is written into the log."""

from __future__ import annotations

import json
import logging
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
from support.fake_host import FakeHost, RunningServer, Script, http_client, serving
from support.processes import wait_until

from mlxk2.server.host_types import HostSnapshot
from mlxk2.server.settings import ServerSettings

pytest.importorskip("fastapi", reason="the server's packages are not installed")
HTTP = http_client()

CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "a very private question"}]}
KEY = "sk-key-of-the-tests"


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serving(FakeHost(), ServerSettings(max_body_bytes=100_000)) as running:
        yield running


@pytest.fixture(scope="module")
def locked() -> Iterator[RunningServer]:
    with serving(FakeHost(), ServerSettings(api_keys=("other", KEY))) as running:
        yield running


@pytest.mark.parametrize(
    "headers", [{"authorization": f"Bearer {KEY}"}, {"authorization": f"bearer  {KEY}"}, {"x-api-key": KEY}]
)
def test_a_key_opens(locked: RunningServer, headers: dict[str, str]) -> None:
    assert HTTP.post(locked.url + CHAT, json=BODY, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": KEY}, {"authorization": f"Bearer {KEY}x"}, {"x-api-key": ""}, {"x-api-key": "é".encode()}],
)
@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/v1/models/org/tiny"])
def test_no_key_no_answer(locked: RunningServer, path: str, headers: dict[str, Any]) -> None:
    response = HTTP.get(locked.url + path, headers=headers)
    assert response.status_code == 401
    assert response.json()["error"]["type"] == "authentication_error"
    assert KEY not in response.text


def test_anthropics_clients_get_anthropics_error(locked: RunningServer) -> None:
    response = HTTP.post(locked.url + "/v1/messages", json={})
    assert (response.status_code, response.json()["error"]["type"]) == (401, "authentication_error")
    assert response.json()["type"] == "error"


@pytest.mark.parametrize("path", ["/health", "/", "/docs", "/openapi.json"])
def test_some_addresses_are_open(locked: RunningServer, path: str) -> None:
    assert HTTP.get(locked.url + path).status_code == 200


def test_settings_do_not_show_their_keys() -> None:
    assert KEY not in repr(ServerSettings(api_keys=(KEY,)))


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", ""]
)
def test_a_name_that_is_not_ours_is_refused(server: RunningServer, host: str) -> None:
    response = HTTP.get(server.url + "/v1/models", headers={"host": host})
    assert response.status_code == 403
    assert "--allowed-host NAME" in response.json()["error"]["message"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8000", "[::1]:8000"])
def test_our_own_names_are_fine(server: RunningServer, host: str) -> None:
    assert HTTP.get(server.url + "/v1/models", headers={"host": host}).status_code == 200


def test_other_names_can_be_allowed() -> None:
    with serving(FakeHost(), ServerSettings(allowed_hosts=("my.box",))) as running:
        assert HTTP.get(running.url + "/v1/models", headers={"host": "my.box:80"}).status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://["])
@pytest.mark.parametrize("path", [CHAT, "/v1/models/org/tiny/unload"])
def test_pages_of_other_sites_cannot_ask(server: RunningServer, path: str, origin: str) -> None:
    response = HTTP.post(server.url + path, json=BODY, headers={"origin": origin})
    assert response.status_code == 403
    assert "--cors-origin ORIGIN" in response.json()["error"]["message"]
    assert "access-control-allow-origin" not in response.headers


def test_our_own_page_can_ask(server: RunningServer) -> None:
    assert HTTP.post(server.url + CHAT, json=BODY, headers={"origin": server.url}).status_code == 200


def test_cors_only_where_it_is_asked_for(server: RunningServer) -> None:
    origin = "https://app.example"
    asking = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type",
    }
    assert "access-control-allow-origin" not in HTTP.options(server.url + CHAT, headers=asking).headers
    with serving(FakeHost(), ServerSettings(cors_origins=(origin,), api_keys=(KEY,))) as running:
        before = HTTP.options(running.url + CHAT, headers=asking)
        assert (before.status_code, before.headers["access-control-allow-origin"]) == (200, origin)
        answer = HTTP.post(running.url + CHAT, json=BODY, headers={"origin": origin, "x-api-key": KEY})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, origin)
        refused = HTTP.post(running.url + CHAT, json=BODY, headers={"origin": "https://evil.example", "x-api-key": KEY})
        assert refused.status_code == 403
        before = HTTP.options(running.url + CHAT, headers={**asking, "origin": "https://evil.example"})
        assert (before.status_code, before.json()["error"]["code"]) == (403, "forbidden")
        assert "origin" in before.json()["error"]["message"]
        assert "access-control-allow-origin" not in before.headers


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
def test_only_json_is_taken(server: RunningServer, kind: str) -> None:
    response = HTTP.post(server.url + CHAT, content=json.dumps(BODY), headers={"content-type": kind})
    assert response.status_code == 415


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "application/json; charset=utf-8"},
        {"content-type": 'Application/JSON;charset="UTF-8"'},
        {"content-type": "application/json", "content-encoding": "identity"},
    ],
    ids=str,
)
def test_json_that_says_how_it_is_spelled_is_json(server: RunningServer, headers: dict[str, str]) -> None:
    assert HTTP.post(server.url + CHAT, content=json.dumps(BODY), headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"content-encoding": "gzip"}, "gzip"),
        ({"content-encoding": "identity, br"}, "br"),
        ({"content-type": "application/json; charset=utf-16"}, "utf-16"),
        ({"content-type": "application/json; x=1; charset=latin1"}, "latin1"),
    ],
    ids=str,
)
def test_json_that_is_spelled_otherwise_is_a_415_that_names_how(
    server: RunningServer, headers: dict[str, str], words: str
) -> None:
    given = {"content-type": "application/json", **headers}
    response = HTTP.post(server.url + CHAT, content=json.dumps(BODY), headers=given)
    assert (response.status_code, response.headers["accept-encoding"]) == (415, "identity")
    assert words in response.json()["error"]["message"]


def test_a_body_that_says_it_is_too_large_is_not_read(server: RunningServer) -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 10000000000\r\n\r\n"
    assert b" 413 " in talk(server, head.encode()).split(b"\r\n")[0]


def test_a_body_in_chunks_is_measured(server: RunningServer) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(30):
            yield b" " * 10_000

    response = HTTP.post(server.url + CHAT, content=chunks(), headers={"content-type": "application/json"})
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "request_too_large"


@pytest.mark.parametrize("path", [CHAT, "/v1/responses"])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"metadata":{"a":1e999}}', "1e999"),
        ('{"metadata":{"a":[-1e999]}}', "-1e999"),
        ('{"seed":1,"seed":2}', "'seed'"),
        ('{"metadata":{"a":{"b":1,"b":1}}}', "'b'"),
    ],
)
def test_what_readers_of_json_do_not_understand_alike_is_refused(
    server: RunningServer, path: str, text: str, words: str
) -> None:
    response = HTTP.post(server.url + path, content=text, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert words in response.json()["error"]["message"]


def test_no_body_is_read_that_could_not_be_answered() -> None:
    class Busy(FakeHost):
        def snapshot(self) -> HostSnapshot:
            return replace(super().snapshot(), running=3, waiting=2, max_concurrency=3, max_queue=2, retry_after_s=7)

    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n"
    with serving(Busy()) as running:
        answer = talk(running, head.encode())
        assert b" 429 " in answer.split(b"\r\n")[0]
        assert b"retry-after: 7\r\n" in answer
        assert HTTP.get(running.url + "/health").status_code == 200


def test_bodies_that_are_read_have_a_bound_together() -> None:
    size = 10_000
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
    )
    body = json.dumps(BODY).encode().ljust(size)
    with serving(FakeHost(), ServerSettings(max_body_bytes=size)) as running, ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=10)) for _ in range(12)
        ]
        for client in clients:
            client.sendall(head.encode() + body[:-1])
        wait_until(lambda: len(select.select(clients, [], [], 0)[0]) >= 4)
        refused, _, _ = select.select(clients, [], [], 0)
        assert all(b" 429 " in client.recv(4096).split(b"\r\n")[0] for client in refused)
        others = [client for client in clients if client not in refused]
        for client in others:
            client.sendall(body[-1:])
        assert [client.recv(12)[-3:] for client in others] == [b"200"] * 8
        # What has been read is given back.
        assert HTTP.post(running.url + CHAT, json=BODY).status_code == 200


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n"
    with serving(FakeHost(), ServerSettings(body_timeout_s=0.3)) as impatient:
        assert b" 408 " in talk(impatient, head.encode()).split(b"\r\n")[0]


def talk(server: RunningServer, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(data)
        return client.recv(4096)


def test_a_request_id_is_echoed_if_it_is_sane(server: RunningServer) -> None:
    assert HTTP.get(server.url + "/health", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    given = HTTP.get(server.url + "/health", headers={"x-request-id": 'a"b' * 100}).headers["x-request-id"]
    assert given.startswith("req_")


def test_anthropics_clients_find_the_id_where_they_look(server: RunningServer) -> None:
    body = {"model": "org/tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
    for path, data in (("/v1/messages", body), ("/v1/messages", {}), ("/v1/messages/count_tokens", {})):
        headers = HTTP.post(server.url + path, json=data, headers={"x-request-id": "mine"}).headers
        assert (headers["request-id"], headers["x-request-id"]) == ("mine", "mine")
    assert "request-id" not in HTTP.get(server.url + "/health").headers


def access_lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [vars(record)["fields"] for record in caplog.records if record.name == "mlxk2.access"]


def test_each_request_is_one_line_with_its_tokens(locked: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="mlxk2.access")
    headers = {"x-api-key": KEY, "x-request-id": "mine"}
    HTTP.post(f"{locked.url}{CHAT}?key={KEY}", json={**BODY, "stream": True, "model": "org/tiny"}, headers=headers)
    wait_until(lambda: len(access_lines(caplog)) == 1)
    line = access_lines(caplog)[0]
    assert (line["request_id"], line["method"], line["path"], line["status"]) == ("mine", "POST", CHAT, 200)
    assert (line["model"], line["prompt_tokens"], line["cached_tokens"], line["completion_tokens"]) == (
        "org/tiny",
        12,
        4,
        3,
    )
    assert line["finish_reason"] == "stop"
    assert 0 <= line["ttft_s"] <= line["duration_s"]
    # pytest listens to uvicorn's own access log, which is switched off.
    told = " ".join(str(vars(record)) for record in caplog.records if record.name != "uvicorn.access")
    assert KEY not in told
    assert "private" not in told


@pytest.mark.parametrize("length", [3000, 1_000_000])
def test_a_name_without_end_is_not_logged(caplog: pytest.LogCaptureFixture, length: int) -> None:
    caplog.set_level(logging.INFO, logger="mlxk2.access")
    with serving(FakeHost()) as running:
        told = HTTP.post(running.url + CHAT, json={**BODY, "model": "x" * length})
        wait_until(lambda: len(access_lines(caplog)) == 1)
    assert told.status_code == 404
    assert length < 4096 or len(told.text) < 500
    assert len(str(access_lines(caplog))) < 1000


@pytest.mark.parametrize(
    ("host", "bound", "is_ours"),
    [
        ("127.0.0.1", None, True), ("127.1.2.3", None, True), ("::1", None, True), ("localhost", None, True),
        ("localhost", "127.0.0.1", True), ("my.box", "127.0.1.1", True), ("127.evil.example", None, False),
        ("127.evil.example", "192.0.2.1", False), ("localhost", "192.0.2.1", False), ("0.0.0.0", None, False),
    ],
)  # fmt: skip
def test_loopback_is_an_address_and_not_how_a_name_begins(host: str, bound: str | None, is_ours: bool) -> None:
    assert ServerSettings(host=host, bound=bound).is_loopback is is_ours


def test_who_is_refused_or_leaves_is_logged_too(locked: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="mlxk2.access")
    HTTP.get(locked.url + "/v1/models")
    wait_until(lambda: len(access_lines(caplog)) == 1)
    locked.host.script = Script(hold=True)
    stream = {**BODY, "stream": True}
    with HTTP.stream("POST", locked.url + CHAT, json=stream, headers={"x-api-key": KEY}):
        wait_until(lambda: locked.host.running == 1)
    wait_until(lambda: len(access_lines(caplog)) == 2)
    assert [line["status"] for line in access_lines(caplog)] == [401, 200]
    assert access_lines(caplog)[1]["error"] == "client_gone"
    locked.host.script = Script()


def test_every_line_can_be_json() -> None:
    from mlxk2.server.access_log import JsonLines, log_config

    formatter = JsonLines()
    try:
        raise ValueError("line\nend")
    except ValueError as error:
        record = logging.LogRecord("uvicorn.error", logging.ERROR, "x", 1, "it\nfailed", (), (ValueError, error, None))
    line = formatter.format(record)
    assert "\n" not in line
    assert json.loads(line)["message"] == "it\nfailed"
    loggers = log_config(ServerSettings(log_json=True))["loggers"]
    assert loggers["uvicorn.access"]["handlers"] == []
    assert loggers["uvicorn"]["handlers"] == ["stderr"]
