"""What the server says of itself is so: requests that run and that wait, tokens of answers that were cut, how they ended."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.processes import wait_until
from support.random_models import random_model
from support.real_server import HI, MARKS, RealServer, real_server
from support.serving import FAKE, RunningServer, running
from support.tiny_model import TinyOptions, scripted_model

pytestmark = MARKS

WIDTH, ALL = 2, 5
TOKENS = 'mlxk2_tokens_total{kind="completion"}'


def serving(folder: Path, *words: str) -> Any:
    scripted = scripted_model(
        folder / "endless", "abcdefghijklmnop", TinyOptions(context_length=1_000_000), repeat=True
    )
    return real_server(scripted, words=("--max-concurrency", str(WIDTH), "--log-json", *words))


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """A server whose answers have no end that a test would see."""
    with serving(tmp_path_factory.mktemp("models")) as started:
        yield started


def asked(server: RunningServer, model: str, id: str = "an-id") -> socket.socket:
    """Ask for a stream, and read nothing of it."""
    body = json.dumps({"model": model, "stream": True, "messages": HI}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: {id}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    found = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    found.sendall(head.encode() + body)
    return found


def read_until(stream: socket.socket, text: bytes, times: int = 1) -> bytes:
    """Read until `text` has come so many times; return all that came."""
    came = b""
    while came.count(text) < times:
        part = stream.recv(65536)
        assert part, came
        came += part
    return came


def counts(server: RealServer) -> tuple[int, int]:
    told = server.status()
    return told["running"], told["waiting"]


def line_of(server: RealServer, id: str) -> dict[str, Any]:
    """The access line of a request that is over."""

    def found() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("request_id") == id]

    wait_until(lambda: bool(found()), f"{id} is in the log")
    return found()[0]


def test_what_waits_in_the_engine_waits_and_who_waits_too_long_was_waiting(tmp_path: Path) -> None:
    with serving(tmp_path, "--queue-timeout", "4") as endless, ExitStack() as streams:
        begun = [streams.enter_context(asked(endless.server, endless.model)) for _ in range(WIDTH)]
        wait_until(lambda: counts(endless) == (WIDTH, 0), "two are answered")
        others = [streams.enter_context(asked(endless.server, endless.model)) for _ in range(ALL - WIDTH)]
        wait_until(lambda: counts(endless) == (WIDTH, ALL - WIDTH), "the others wait")
        assert endless.metric("mlxk2_requests_running") == WIDTH
        assert endless.metric("mlxk2_queue_length") == ALL - WIDTH
        for other in others:
            assert read_until(other, b"waited_too_long").startswith(b"HTTP/1.1 503")
        assert counts(endless) == (WIDTH, 0)
        assert all(stream.recv(16).startswith(b"HTTP/1.1 200") for stream in begun)


def test_texts_to_embed_run_while_they_are_read(tmp_path: Path) -> None:
    with real_server(random_model(tmp_path / "Tiny-Embedding", "qwen3")) as server:
        data = json.dumps({"model": server.model, "input": ["the cat sat on the mat " * 40] * 2000}).encode()
        head = "POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        with socket.create_connection(("127.0.0.1", server.server.port)) as client:
            client.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
            wait_until(lambda: counts(server) == (1, 0), "the texts are read")
        server.wait_until_idle()


def test_a_model_that_is_loaded_first_is_no_request(tmp_path: Path) -> None:
    folder = str(scripted_model(tmp_path / "never", "Hello."))
    with running(FAKE, folder) as server:
        wait_until(lambda: server.get("/v1/status")["state"] == "loading", "the model is on its way")
        assert server.get("/v1/status")["waiting"] == 0
        with asked(server, folder):
            wait_until(lambda: server.get("/v1/status")["waiting"] > 0, "the request waits")
            assert server.get("/v1/status")["waiting"] == 1
        server.process.terminate()
        server.process.wait(20)
        # To be ended meanwhile is no error.
        assert "could not be loaded" not in server.err.read_text()
        assert " error: " not in server.err.read_text()


@pytest.mark.parametrize("end", ["client", "engine"])
def test_the_tokens_of_a_stream_that_is_cut_are_counted(endless: RealServer, end: str) -> None:
    before = endless.metric(TOKENS)
    with asked(endless.server, endless.model, f"cut-{end}") as stream:
        read_until(stream, b"data: ", 10)
        if end == "engine":
            os.kill(endless.engine(), signal.SIGKILL)
            read_until(stream, b"engine_lost")
    line = line_of(endless, f"cut-{end}")
    assert (line["status"], line["error"]) == (200, "client_gone" if end == "client" else "engine_lost")
    assert line["completion_tokens"] >= 8
    assert endless.metric(TOKENS) == before + line["completion_tokens"]
    endless.engine()


def test_the_tokens_of_a_whole_answer_are_counted_once(endless: RealServer) -> None:
    before = endless.metric(TOKENS)
    assert endless.chat(max_tokens=7).json()["usage"]["completion_tokens"] == 7
    assert endless.metric(TOKENS) == before + 7


def test_who_leaves_the_line_was_not_answered(endless: RealServer) -> None:
    with ExitStack() as streams:
        for _ in range(WIDTH):
            streams.enter_context(asked(endless.server, endless.model))
        wait_until(lambda: counts(endless) == (WIDTH, 0), "the places are taken")
        with asked(endless.server, endless.model, "left"):
            wait_until(lambda: counts(endless) == (WIDTH, 1), "one waits")
        line = line_of(endless, "left")
        assert (line["status"], line["error"], line["completion_tokens"]) == (499, "client_gone", 0)
    endless.wait_until_idle()


def test_who_waits_hears_that_it_is_not_forgotten(endless: RealServer) -> None:
    with ExitStack() as streams:
        for _ in range(WIDTH):
            streams.enter_context(asked(endless.server, endless.model))
        wait_until(lambda: counts(endless) == (WIDTH, 0), "the places are taken")
        with asked(endless.server, endless.model) as waiting:
            assert read_until(waiting, b": keep-alive").startswith(b"HTTP/1.1 200")
            assert counts(endless) == (WIDTH, 1)
    endless.wait_until_idle()
