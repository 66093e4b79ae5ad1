"""Clients that go away free the engine at once, whatever they asked and however far the answer was."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from support.processes import wait_until
from support.real_server import HI, MARKS, RealServer, httpx, real_server, said
from support.tiny_model import TinyOptions, scripted_model

pytestmark = MARKS

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """A server whose answers have no end that a test would see."""
    options = TinyOptions(context_length=1_000_000)
    folder = scripted_model(tmp_path_factory.mktemp("models") / "endless", "abcdefghijklmnop", options, repeat=True)
    with real_server(folder) as started:
        yield started


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": HI}),
        ("/v1/chat/completions", {"messages": HI, "n": 4}),
        ("/v1/completions", {"prompt": ["a", "b", "c"]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "word " * 20_000}]}),
        ("/v1/responses", {"input": "hi"}),
        ("/v1/messages", {"messages": HI, "max_tokens": 400_000}),
    ],
    ids=["chat", "choices", "completions", "prefill", "responses", "messages"],
)
def test_a_client_that_goes_away_frees_the_engine(
    endless: RealServer, path: str, body: dict[str, Any], stream: bool
) -> None:
    engine = endless.engine()
    data = json.dumps({"model": endless.model, "stream": stream, **body}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", endless.server.port)) as connection:
        connection.sendall(head.encode() + data)
        wait_until(lambda: endless.status()["running"] > 0, "the request is being answered")
        if stream:
            assert connection.recv(16).startswith(b"HTTP/1.1 200")
    endless.wait_until_idle()
    assert endless.engine() == engine
    assert said(endless.chat(max_tokens=4))


def test_many_that_come_and_go_leave_nothing(endless: RealServer) -> None:
    def come_and_go(number: int) -> None:
        body = {"model": endless.model, "messages": HI, "stream": True}
        with httpx.Client(base_url=endless.url, timeout=60) as client, client.stream("POST", CHAT, json=body) as answer:
            lines = answer.iter_lines()
            for _ in range(number % 7):
                next(lines)

    threads = [threading.Thread(target=come_and_go, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    endless.wait_until_idle()
    assert said(endless.chat(max_tokens=4))
