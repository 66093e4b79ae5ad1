"""A host without an engine, and a real HTTP server in front of it: what the web side does, without MLX."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Callable

import pytest

from mlxk2 import errors
from mlxk2.events import Timing, Usage
from mlxk2.runner.answer import ChosenToken, TokenChoice
from mlxk2.runner.request import GenerationRequest
from mlxk2.server.host_types import NONE, READY, HostSnapshot
from mlxk2.server.problems import error_of
from mlxk2.server.protocol import (
    LAST,
    Begun,
    Command,
    Count,
    Counted,
    Embed,
    Embedded,
    Generate,
    Over,
    Piece,
    Problem,
    Ready,
    RequestEvent,
    Status,
    ToolLost,
    ToolPiece,
)
from mlxk2.server.settings import ServerSettings
from support.processes import wait_until

MODEL = "org/tiny"
# A part of the name is a name too.
PART = "tin"
READY_MODEL = Ready(4096, 1000, True, True, True, True)
STATUS = Status(1, 0, 10, 100, 200, 300, 400, 3, 4)


@dataclass
class Script:
    """How the fake answers. `pause_s` is before each word; `hold` keeps an answer from ending until it is set."""

    words: tuple[str, ...] = ("Hello", " there", "!")
    thoughts: tuple[str, ...] = ()
    calls: tuple[tuple[str, str, tuple[str, ...]], ...] = ()
    reason: str = "stop"
    stop: str | None = None
    value_problem: str | None = None
    pause_s: float = 0.0
    pause_before_start_s: float = 0.0
    hold: bool = False
    lost_call: str | None = None
    error: errors.MlxkError | None = None
    bug: bool = False
    fail_after: int | None = None
    problem: Problem = field(default_factory=lambda: Problem.of(errors.EngineLost("the engine was lost", hint=None)))


class FakeHost:
    """Answers by a script, and remembers what was asked and who went away."""

    def __init__(self, script: Script | None = None) -> None:
        self.script = script or Script()
        self.requests: list[GenerationRequest] = []
        self.commands: list[Command] = []
        self.asked_models: list[str | None] = []
        self.running = 0
        self.cancelled = 0
        self.loaded: str | None = MODEL
        self.state = READY
        self.problem: str | None = None

    def submit(self, model: str | None, make: Callable[[str], Command]) -> AsyncIterator[RequestEvent]:
        """Answer a command."""
        command = make(f"id-{len(self.commands)}")
        self.commands.append(command)
        self.asked_models.append(model)
        return self._events(model, command)

    async def _events(self, model: str | None, command: Command) -> AsyncIterator[RequestEvent]:
        self.running += 1
        is_over = False
        try:
            await self.name_of(model)
            if self.script.error is not None:
                raise self.script.error
            if self.script.bug:
                raise RuntimeError("a secret of the server")
            await _pass(self.script.pause_before_start_s)
            async for event in self._answer(command):
                is_over = isinstance(event, LAST)
                yield event
        finally:
            self.cancelled += not is_over
            self.running -= 1

    async def _answer(self, command: Command) -> AsyncIterator[RequestEvent]:
        if isinstance(command, Embed):
            yield Embedded(command.id, tuple((0.6, 0.8, float(n)) for n in range(len(command.inputs))), 7)
        elif isinstance(command, Count):
            self.requests.append(command.request)
            yield Counted(command.id, 42)
        elif isinstance(command, Generate):
            self.requests.append(command.request)
            async for event in self._generation(command):
                yield event

    async def _generation(self, command: Generate) -> AsyncIterator[RequestEvent]:
        script, id = self.script, command.id
        yield Begun(id, 12, 4)
        for thought in script.thoughts:
            yield Piece(id, "reasoning", thought)
        for number, word in enumerate(script.words):
            if number == script.fail_after:
                raise error_of(script.problem)
            await _pass(script.pause_s)
            yield Piece(id, "answer", word, _logprobs(word, command.request))
        for index, (call_id, name, parts) in enumerate(script.calls):
            yield ToolPiece(id, index, call_id, name, "")
            for part in parts:
                yield ToolPiece(id, index, None, None, part)
            if script.lost_call is not None:
                yield ToolLost(id, index, script.lost_call)
        while script.hold:
            await asyncio.sleep(0.01)
        said, thought = len(script.words), len(script.thoughts)
        usage = Usage(12, thought + said, 12 + thought + said, 4)
        yield Over(id, script.reason, usage, Timing(0.1, 0.2), script.stop, script.value_problem, thought)

    async def name_of(self, model: str | None) -> str:
        """Return the one whole name that there is."""
        if model not in (None, MODEL, PART):
            raise errors.ModelNotFound(f"no model {model!r} in the cache")
        return MODEL

    async def load(self, model: str) -> None:
        """Load a model."""
        self.loaded, self.state = await self.name_of(model), READY

    async def unload(self, model: str) -> None:
        """Unload a model."""
        if await self.name_of(model) == self.loaded:
            self.loaded, self.state = None, NONE

    def snapshot(self) -> HostSnapshot:
        """Say how the fake is."""
        ready = READY_MODEL if self.loaded else None
        status = STATUS if self.loaded else None
        return HostSnapshot(
            state=self.state, model=self.loaded, ready=ready, status=status, pid=1, running=self.running, waiting=2,
            max_concurrency=32, max_queue=256, restarts=1, problem=self.problem, started_at=1e9, loaded_at=1e9,
        )  # fmt: skip


async def _pass(seconds: float) -> None:
    """Be slow: what a model would be busy with takes so long."""
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, over.set)
    await over.wait()


def _logprobs(word: str, request: GenerationRequest) -> tuple[ChosenToken, ...]:
    if request.top_logprobs is None:
        return ()
    top = tuple(TokenChoice(word, 5, -0.25) for _ in range(min(1, request.top_logprobs)))
    return (ChosenToken(word, 5, -0.25, top),)


@dataclass
class RunningServer:
    """A server that listens. `url` has no slash at its end."""

    url: str
    port: int
    host: FakeHost


@contextmanager
def serving(host: FakeHost, settings: ServerSettings | None = None, catalog: Any = None) -> Iterator[RunningServer]:
    """Serve `host` over real HTTP on loopback, as `mlxk2 serve` would, until the block ends."""
    import uvicorn

    from mlxk2.server.access_log import uvicorn_options
    from mlxk2.server.app import create_app

    settings = settings or ServerSettings()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        settings = replace(settings, port=port)
        app = create_app(host, settings, **({} if catalog is None else {"list_models": catalog}))
        options = {**uvicorn_options(settings), "log_config": None}
        server = uvicorn.Server(uvicorn.Config(app, **options, timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            wait_until(lambda: server.started, "it listens")
            yield RunningServer(f"http://127.0.0.1:{port}", port, host)
        finally:
            server.should_exit = True
            thread.join(10)
    assert not thread.is_alive()


def http_client(**options: Any) -> Any:
    """Return a client that leaves no connection open; the test file is skipped where httpx is missing."""
    httpx = pytest.importorskip("httpx")
    limits = httpx.Limits(max_keepalive_connections=0)
    return httpx.Client(verify=False, trust_env=False, limits=limits, timeout=120, **options)
