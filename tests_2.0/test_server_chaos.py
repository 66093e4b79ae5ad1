"""The real engine is killed at random while eight clients ask: nobody hangs, and everybody is answered afterwards."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from support.processes import wait_until
from support.real_server import HI, MARKS, RealServer, httpx, real_server
from support.tiny_model import TinyOptions, scripted_model

pytestmark = MARKS

CLIENTS = 8
LENGTH = 60
# No request may take longer, whatever happens to the engine.
PATIENCE_S = 45.0


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    options = TinyOptions(context_length=4096)
    folder = scripted_model(tmp_path_factory.mktemp("models") / "endless", "abcdefghijklmnop", options, repeat=True)
    with real_server(folder) as started:
        yield started


class Client:
    """Asks again and again, streamed and not by turns, until it is told to end; counts how each request ended."""

    def __init__(self, server: RealServer, number: int, ended: threading.Event) -> None:
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.pieces = 0
        self._server, self._number, self._ended = server, number, ended
        self.thread = threading.Thread(target=self._ask_on, daemon=True)
        self.thread.start()

    def _ask_on(self) -> None:
        with httpx.Client(base_url=self._server.url, timeout=PATIENCE_S) as client:
            while not self._ended.is_set():
                self._number += 1
                try:
                    outcome = self.streamed(client) if self._number % 2 else self.whole(client)
                except httpx.HTTPError as error:
                    outcome = "hung or cut"
                    self.wrong.append(repr(error))
                self.outcomes[outcome] += 1

    def whole(self, client: httpx.Client) -> str:
        answer = client.post("/v1/chat/completions", json=self._body(stream=False))
        if answer.status_code == 200:
            self.pieces += LENGTH
            return self._checked(answer.json()["usage"]["completion_tokens"])
        return self._lost(answer.status_code, answer.json()["error"])

    def streamed(self, client: httpx.Client) -> str:
        tokens = 0
        with client.stream("POST", "/v1/chat/completions", json=self._body(stream=True)) as answer:
            if answer.status_code != 200:
                answer.read()
                return self._lost(answer.status_code, answer.json()["error"])
            for line in answer.iter_lines():
                if not line.startswith("data: {"):
                    continue
                told = json.loads(line[6:])
                if "error" in told:
                    return self._lost(503, told["error"])
                tokens = told["usage"]["completion_tokens"] if told.get("usage") else tokens
                self.pieces += 1
        return self._checked(tokens)

    def _body(self, stream: bool) -> dict[str, object]:
        options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        return {"model": self._server.model, "messages": HI, "max_tokens": LENGTH, **options}

    def _checked(self, tokens: int) -> str:
        if tokens != LENGTH:
            self.wrong.append(f"{tokens} tokens")
        return "answered"

    def _lost(self, status: int, error: dict[str, object]) -> str:
        if status not in (500, 503) or error["code"] != "engine_lost" or not error["message"]:
            self.wrong.append(f"{status} {error}")
        return "lost"


@pytest.mark.parametrize(
    "signals",
    [[signal.SIGKILL] * 10, [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGSEGV, signal.SIGABRT]],
    ids=["ten kills", "crashes"],
)
def test_engines_die_under_load_and_nobody_hangs(server: RealServer, signals: list[int]) -> None:
    draw, ended = random.Random(7), threading.Event()
    clients = [Client(server, number, ended) for number in range(CLIENTS)]

    def pieces() -> int:
        return sum(client.pieces for client in clients)

    try:
        killed = 0
        for deaths, number in enumerate(signals):
            # What the last one said may still be on its way to the clients.
            wait_until(lambda deaths=deaths: server.status()["restarts"] >= deaths, "its death is known")  # type: ignore[misc]
            # Not before it has answered, and then at any moment of an answer.
            moment = pieces() + draw.randrange(1, 4 * LENGTH)
            wait_until(lambda moment=moment: pieces() >= moment, "the engine is at work")  # type: ignore[misc]
            engine = server.engine()
            assert engine != killed
            os.kill(engine, number)
            killed = engine
            health = server.client.get("/health")
            assert health.status_code in (200, 503)
        after = pieces() + LENGTH
        wait_until(lambda: pieces() >= after, "the last engine is at work")
    finally:
        ended.set()
    end = time.monotonic() + PATIENCE_S
    for client in clients:
        client.thread.join(max(end - time.monotonic(), 0))
    assert not [client for client in clients if client.thread.is_alive()], "a client hangs"
    assert [client.wrong for client in clients if client.wrong] == []
    outcomes = sum((client.outcomes for client in clients), Counter[str]())
    assert outcomes["answered"] >= CLIENTS and outcomes["lost"] >= 1, outcomes
    server.wait_until_idle()
    assert server.status()["restarts"] == len(signals)
    assert server.client.get("/health").json()["status"] == "healthy"
    for _ in range(CLIENTS):
        assert server.chat(max_tokens=LENGTH).json()["usage"]["completion_tokens"] == LENGTH


def test_an_engine_that_dies_while_it_loads_is_loaded_again(server: RealServer) -> None:
    server.client.post(f"/v1/models/{server.model}/unload")
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(server.chat(max_tokens=3)), daemon=True)
    asking.start()

    def loading() -> int | None:
        loaded = server.status()["loaded"]
        return loaded[0]["pid"] if loaded else None

    wait_until(lambda: loading() is not None, "an engine is being started")
    pid = loading()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    asking.join(PATIENCE_S)
    assert not asking.is_alive()
    assert answers[0].status_code in (200, 503)
    assert server.chat(max_tokens=3).status_code == 200
