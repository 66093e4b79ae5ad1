"""A real engine process at the other end of two pipes, with nothing of HTTP around it."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Callable

from mlxk2.runner.request import GenerationRequest, Message, Sampling
from mlxk2.server.engine import run_engine
from mlxk2.server.protocol import (
    LAST,
    Begun,
    Cancel,
    Command,
    EngineEvent,
    EngineSpec,
    Generate,
    LoadFailed,
    Over,
    Piece,
    Ready,
    Status,
    Stop,
    ToolPiece,
)
from mlxk2.store.model_ref import WORKSPACE, ModelRef

_PATIENCE_S = 180.0

GREEDY = Sampling(temperature=0, repetition_penalty=1.0)


def asking(prompt: str | None = None, **options: Any) -> GenerationRequest:
    """A greedy request."""
    options.setdefault("sampling", GREEDY)
    return GenerationRequest(prompt=prompt, **options)


def chatting(*messages: Message | str, **options: Any) -> GenerationRequest:
    """A greedy request; texts are messages of the user."""
    turns = tuple(Message("user", message) if isinstance(message, str) else message for message in messages)
    return asking(messages=turns, **options)


class RunningEngine:
    """An engine process. `events` are all that it said so far."""

    def __init__(self, model: Path, **spec: Any) -> None:
        context = multiprocessing.get_context("spawn")
        orders, self.commands = context.Pipe(duplex=False)
        self._events, events = context.Pipe(duplex=False)
        ref = ModelRef(model.name, model, None, WORKSPACE)
        self.process = context.Process(target=run_engine, args=(EngineSpec(ref, **spec), orders, events))
        self.process.start()
        orders.close()
        events.close()
        self.events: list[EngineEvent] = []
        self.first = self.wait(lambda event: isinstance(event, (Ready, LoadFailed)))

    def __enter__(self) -> RunningEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.is_alive() and error is None:
            assert self.stop() == 0
        self.process.kill()
        self.process.join()
        self.commands.close()
        self._events.close()

    def stop(self) -> int | None:
        """Ask it to end; return its exit code."""
        self.commands.send(Stop())
        self.process.join(_PATIENCE_S)
        return self.process.exitcode

    def send(self, command: Command) -> None:
        self.commands.send(command)

    def ask(self, id: str, request: GenerationRequest) -> None:
        """Send a request."""
        self.send(Generate(id, request))

    def cancel(self, id: str) -> None:
        self.send(Cancel(id))

    def answer(self, id: str, request: GenerationRequest) -> str:
        """Send a request and return its text."""
        self.ask(id, request)
        assert isinstance(self.end(id), Over), self.end(id)
        return self.text(id)

    def wait(self, condition: Callable[[EngineEvent], bool]) -> Any:
        """Return the first event from now on for which `condition` holds."""
        end = time.monotonic() + _PATIENCE_S
        while time.monotonic() < end:
            if not self._events.poll(0.2):
                assert self.process.is_alive() or self._events.poll(0), (
                    f"the engine ended with code {self.process.exitcode}"
                )
                continue
            news = self._events.recv()
            assert isinstance(news, tuple)
            self.events += news
            found = next(filter(condition, news), None)
            if found is not None:
                return found
        raise AssertionError(f"waited in vain; last: {self.events[-3:]}")

    def end(self, id: str) -> Any:
        """Return the last event of a request, which may have come already."""
        found = next((event for event in self.of(id) if isinstance(event, LAST)), None)
        return found or self.wait(lambda event: isinstance(event, LAST) and event.id == id)

    def ends(self, ids: Iterable[str]) -> list[Any]:
        return [self.end(id) for id in ids]

    def of(self, id: str) -> list[Any]:
        """Return what was said of a request."""
        return [event for event in self.events if getattr(event, "id", None) == id]

    def text(self, id: str, channel: str = "answer") -> str:
        return "".join(event.text for event in self.of(id) if isinstance(event, Piece) and event.channel == channel)

    def begun(self, id: str) -> Begun:
        (found,) = (event for event in self.of(id) if isinstance(event, Begun))
        return found

    def first_piece(self, id: str) -> None:
        """Wait until something was said of a request."""
        if not any(isinstance(event, (Piece, ToolPiece)) for event in self.of(id)):
            self.wait(lambda event: isinstance(event, (Piece, ToolPiece)) and event.id == id)

    def status(self, condition: Callable[[Status], bool] = lambda status: True) -> Status:
        """Wait for a report of which `condition` holds."""
        found: Status = self.wait(lambda event: isinstance(event, Status) and condition(event))
        return found
