"""The server's streams: frames, silence, errors on the way, and clients that go away."""

from __future__ import annotations

import json
import logging
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from support.fake_host import FakeHost, RunningServer, Script, http_client, serving
from support.processes import wait_until

from mlxk2 import errors
from mlxk2.server.protocol import Problem
from mlxk2.server.settings import ServerSettings

pytest.importorskip("fastapi", reason="the server's packages are not installed")
HTTP = http_client()

HELLO = [{"role": "user", "content": "hello"}]
CHAT, TEXT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": HELLO},
    TEXT: {"prompt": "hello"},
    RESPONSES: {"input": "hello"},
    MESSAGES: {"messages": HELLO, "max_tokens": 9},
}


@pytest.fixture
def server() -> Iterator[RunningServer]:
    with serving(FakeHost(), ServerSettings(keepalive_s=0.1)) as running:
        yield running


def raw(server: RunningServer, path: str = CHAT, **body: Any) -> str:
    response = HTTP.post(server.url + path, json={**BODIES[path], "stream": True, **body})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    return str(response.text)


def frames(text: str) -> list[Any]:
    lines = [line[len("data: ") :] for line in text.splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def test_a_chat_stream_begins_with_the_role_and_ends_with_done(server: RunningServer) -> None:
    *chunks, done = frames(raw(server))
    assert done == "[DONE]"
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [chunk["choices"][0]["delta"].get("content") for chunk in chunks[1:]] == ["Hello", " there", "!", None]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 4 + ["stop"]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert "usage" not in chunks[0]


def test_usage_comes_last_where_it_is_asked_for(server: RunningServer) -> None:
    *chunks, last, done = frames(raw(server, stream_options={"include_usage": True}))
    assert done == "[DONE]"
    assert [chunk["usage"] for chunk in chunks] == [None] * len(chunks)
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 15
    assert last["usage"]["prompt_tokens_details"] == {"cached_tokens": 4}


def test_empty_stream_options_are_fine(server: RunningServer) -> None:
    assert frames(raw(server, stream_options={}))[-1] == "[DONE]"


def test_tools_come_in_pieces(server: RunningServer) -> None:
    server.host.script = Script(words=(), calls=(("c1", "f", ('{"a"', ":1}")),), reason="tool_calls")
    deltas = [chunk["choices"][0]["delta"] for chunk in frames(raw(server))[1:-2]]
    assert [delta["tool_calls"][0] for delta in deltas] == [
        {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"a"'}},
        {"index": 0, "function": {"arguments": ":1}"}},
    ]


def test_several_choices_share_a_stream(server: RunningServer) -> None:
    *chunks, done = frames(raw(server, n=3))
    assert done == "[DONE]"
    for number in range(3):
        own = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == number]
        assert "".join(choice["delta"].get("content", "") for choice in own) == "Hello there!"
        assert own[-1]["finish_reason"] == "stop"


def test_a_completion_stream(server: RunningServer) -> None:
    *chunks, done = frames(raw(server, TEXT, echo=True))
    assert done == "[DONE]"
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "helloHello there!"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_comments_come_while_nothing_comes(server: RunningServer) -> None:
    server.host.script = Script(pause_before_start_s=1.5)
    text = raw(server)
    assert text.startswith(": keep-alive\n\n")
    assert frames(text)[-1] == "[DONE]"


def test_anthropics_streams_are_pinged(server: RunningServer) -> None:
    server.host.script = Script(pause_s=0.25)
    assert {"type": "ping"} in frames(raw(server, MESSAGES))


@pytest.mark.parametrize("path", BODIES)
def test_what_fails_at_once_has_a_status_of_its_own(server: RunningServer, path: str) -> None:
    server.host.script = Script(error=errors.QueueFull("too many", retry_after_s=7))
    response = HTTP.post(server.url + path, json={**BODIES[path], "stream": True})
    assert response.status_code == 429
    assert response.headers["retry-after"] == "7"
    assert response.json()["error"]["message"] == "too many"


@pytest.mark.parametrize("path", BODIES)
def test_what_fails_on_the_way_is_an_event(server: RunningServer, path: str) -> None:
    server.host.script = Script(fail_after=2, problem=Problem("engine_lost", "it crashed", None, 503))
    text = raw(server, path)
    told = [frame for frame in frames(text) if frame != "[DONE]" and ("error" in frame or frame.get("type") == "error")]
    assert "it crashed" in json.dumps(told[0])
    assert "[DONE]" not in text


def test_the_time_of_a_stream_ends(server: RunningServer) -> None:
    with serving(FakeHost(Script(hold=True)), ServerSettings(request_timeout_s=0.3)) as short:
        last = frames(raw(short))[-1]
        assert last["error"]["code"] == "request_timed_out"
        wait_until(lambda: short.host.running == 0)
        assert short.host.cancelled == 1


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", BODIES)
def test_a_client_that_goes_away_frees_its_place(server: RunningServer, path: str, stream: bool) -> None:
    server.host.script = Script(hold=True)
    body = json.dumps({**BODIES[path], "stream": stream}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(head.encode() + body)
        wait_until(lambda: server.host.running == 1)
        if stream:
            assert client.recv(20)
    wait_until(lambda: server.host.running == 0)
    assert server.host.cancelled == 1


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", BODIES)
def test_a_client_that_goes_away_before_the_first_word_frees_its_place(path: str, stream: bool) -> None:
    with serving(FakeHost(Script(pause_before_start_s=30))) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(asking(path, stream=stream))
            wait_until(lambda: server.host.running == 1)
        wait_until(lambda: server.host.running == 0)
        assert server.host.cancelled == 1


def asking(path: str, **body: Any) -> bytes:
    data = json.dumps({**BODIES[path], **body}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


def connections() -> int:
    """How many connected sockets this process has, a server's in it too."""
    found = 0
    for name in os.listdir("/dev/fd"):
        # The listing itself was open while it was made.
        with suppress(OSError):
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                with socket.socket(fileno=os.dup(int(name))) as one:
                    one.getpeername()
                    found += one.family in (socket.AF_INET, socket.AF_INET6)
    return found


@pytest.mark.parametrize("is_silent", [False, True], ids=["while it is told", "while nothing comes"])
@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_a_client_that_does_not_read_is_cut_off_at_the_end_of_its_time(
    path: str, is_silent: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    script = Script(words=("x" * 1_000_000,) * (10 if is_silent else 100), hold=is_silent)
    with serving(FakeHost(script), ServerSettings(request_timeout_s=0.5, keepalive_s=0.05)) as server:
        others = connections()
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", server.port))
            client.sendall(asking(path, stream=True))
            wait_until(lambda: server.host.running == 1)
            # The server's end of the connection and ours.
            assert connections() == others + 2
            wait_until(lambda: connections() == others + 1)
        assert (server.host.running, server.host.cancelled) == (0, 1)
        wait_until(lambda: any(line.name == "mlxk2.access" for line in caplog.records))
        lines = [vars(line)["fields"] for line in caplog.records if line.name == "mlxk2.access"]
        assert [line["error"] for line in lines] == ["client_not_reading"]
        assert [line.getMessage() for line in caplog.records if line.levelno >= logging.WARNING] == []


def test_all_choices_of_a_client_that_goes_away_end(server: RunningServer) -> None:
    server.host.script = Script(hold=True)
    with HTTP.stream("POST", server.url + CHAT, json={"messages": HELLO, "stream": True, "n": 4}) as response:
        lines = response.iter_lines()
        assert next(lines)
        wait_until(lambda: server.host.running == 4)
    wait_until(lambda: server.host.running == 0)
    assert server.host.cancelled == 4
    server.host.script = Script()
    assert HTTP.post(server.url + CHAT, json={"messages": HELLO}).status_code == 200
