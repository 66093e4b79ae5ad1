"""Connections that ask nothing, or too slowly, or are too many: the others are answered all the same."""

from __future__ import annotations

import http.client
import importlib.util
import json
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any

import pytest
from support.processes import wait_until
from support.serving import FAKE, RunningServer, running
from support.tiny_model import scripted_model

CAN_SERVE = sys.version_info >= (3, 11) and all(map(importlib.util.find_spec, ("fastapi", "uvicorn")))
pytestmark = pytest.mark.skipif(
    not CAN_SERVE, reason="the extra `serve` is not installed, or Python is older than 3.11"
)

HEAD_TIMEOUT_S, MOST = 0.5, 20
CHAT = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(scripted_model(tmp_path_factory.mktemp("models") / "slow", "Hello there."))


@contextmanager
def serving(folder: str, command: tuple[str, ...] = FAKE, **web: Any) -> Iterator[RunningServer]:
    few = {"max_concurrency": 4, "max_queue": 4}
    with running(command, folder, json.dumps({"web": web, "host": few})) as server:
        server.wait_for_engine()
        yield server
        assert "Traceback" not in server.err.read_text()


@pytest.fixture(scope="module")
def strict(folder: str) -> Iterator[RunningServer]:
    with serving(folder, head_timeout_s=HEAD_TIMEOUT_S, body_timeout_s=2.0) as server:
        yield server


@pytest.fixture
def narrow(folder: str) -> Iterator[RunningServer]:
    with serving(folder, max_connections=MOST) as server:
        yield server


def connected(server: RunningServer, said: bytes = b"") -> socket.socket:
    found = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    found.sendall(said)
    return found


def rest_of(connection: socket.socket) -> bytes:
    """Return what comes until the server ends the connection, however it does."""
    found = b""
    try:
        while part := connection.recv(65536):
            found += part
    except ConnectionResetError:
        pass
    return found


def trickle(connection: socket.socket, part: bytes) -> bool:
    """Say a little more; return whether the connection has ended."""
    try:
        connection.sendall(part)
        connection.settimeout(0.05)
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


# --- slow ones --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [b"", b"GET /health HTTP/1.1\r\nHost: local"], ids=["nothing", "half a head"])
def test_who_asks_nothing_is_sent_away(strict: RunningServer, said: bytes) -> None:
    began = time.monotonic()
    with connected(strict, said) as connection:
        assert rest_of(connection) == b""
        assert HEAD_TIMEOUT_S * 0.9 < time.monotonic() - began < 10


@pytest.mark.parametrize("asked_before", [False, True])
def test_who_asks_letter_by_letter_is_sent_away(strict: RunningServer, asked_before: bool) -> None:
    with connected(strict) as connection:
        if asked_before:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        wait_until(lambda: trickle(connection, b"a"), "the connection has ended")


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"GET /health HTTP/1.1\r\n\r\n", "Host"),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: other\r\n\r\n", "Host"),
        (CHAT + b"Transfer-Encoding: chunked\r\n\r\nno-number\r\n", "chunk"),
        (b"what is this\r\n\r\n", "request line"),
    ],
    ids=["no-host", "two-hosts", "chunk", "no-http"],
)
def test_what_is_no_http_is_refused_in_our_words(strict: RunningServer, said: bytes, why: str) -> None:
    with connected(strict, said) as client:
        head, _, body = rest_of(client).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"content-type: application/json" in head
    assert b"x-request-id: req_" in head
    error = json.loads(body)["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_request")
    assert why in error["message"]


def test_rubbish_behind_a_request_does_not_get_into_its_answer(strict: RunningServer) -> None:
    with connected(
        strict, b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    ) as client:
        told = client.recv(65536)
        client.sendall(b"no-number\r\n")
        told += rest_of(client)
    assert told.startswith(b"HTTP/1.1 404")
    assert told.count(b"HTTP/1.1") == 1


def test_a_body_that_trickles_is_answered_408(strict: RunningServer) -> None:
    with connected(strict, CHAT + b"Content-Length: 100000\r\n\r\n{") as connection:
        connection.settimeout(20)
        answer = rest_of(connection)
    assert answer.startswith(b"HTTP/1.1 408 ") and b"body_timeout" in answer


def test_who_is_being_answered_may_take_longer(strict: RunningServer) -> None:
    connection, answer = strict.stream(strict.banner["data"]["model"])
    began = time.monotonic()
    while time.monotonic() - began < 4 * HEAD_TIMEOUT_S + 1:
        assert answer.readline()
    connection.close()


def test_who_asks_again_in_time_keeps_the_connection(strict: RunningServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", strict.port, timeout=20)
    began = time.monotonic()
    while time.monotonic() - began < 4 * HEAD_TIMEOUT_S + 1:
        connection.request("GET", "/health")
        assert json.loads(connection.getresponse().read())["status"] == "healthy"
        own = connection.sock
    assert own is not None
    connection.close()


# --- many -------------------------------------------------------------------------------------------------------------


def test_silent_connections_make_room_for_those_that_ask(narrow: RunningServer) -> None:
    with ExitStack() as stack:
        silent = [stack.enter_context(connected(narrow)) for _ in range(MOST)]
        # Only those are sent away that have had a moment to ask.
        wait_until(lambda: _is_answered(narrow), "room was made")
        gone = sum(trickle(connection, b"GET /health") for connection in silent)
        assert 1 <= gone < MOST


def _is_answered(server: RunningServer) -> bool:
    try:
        return bool(server.get("/health")["status"] == "healthy")
    except (OSError, http.client.HTTPException, KeyError):
        return False


def test_too_many_at_once_are_refused_in_our_words(narrow: RunningServer) -> None:
    answers: list[bytes] = []
    with ExitStack() as stack:

        def one_more_is_refused() -> bool:
            connection = stack.enter_context(connected(narrow))
            connection.settimeout(0.01)
            with suppress(TimeoutError):
                answers.append(rest_of(connection))
            return any(answers)

        wait_until(one_more_is_refused, "one is refused")
        head, _, said = answers[-1].partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 429 ")
        assert b"connection: close" in head and b"retry-after: 1" in head and b"x-request-id: req_" in head
        assert json.loads(said)["error"]["code"] == "queue_full"
        wait_until(lambda: "connections were refused" in narrow.err.read_text(), "the log tells of it")
    wait_until(lambda: _is_answered(narrow), "there is room again")
    assert _refused(narrow) >= sum(bool(answer) for answer in answers)


def _refused(server: RunningServer) -> float:
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)) as connection:
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("mlxk2_connections_refused_total "))


def test_few_open_files_are_few_connections_and_no_end(folder: str) -> None:
    with serving(
        folder, ("sh", "-c", f'ulimit -n 100; exec "{sys.executable}" -m support.serving "$@"', "sh")
    ) as server:
        with ExitStack() as stack:
            for _ in range(150):
                stack.enter_context(connected(server))
            wait_until(lambda: _is_answered(server), "it answers all the same")
        assert "out of system resource" not in server.err.read_text()
