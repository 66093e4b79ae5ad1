"""Fixtures of the chat's tests: a chat in memory, line by line, and the session behind it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import pytest
from support.call import Result, call
from support.isolation import IsolatedCache

from mlxk2 import driving
from mlxk2.events import Event, Warned
from mlxk2.operations.chat import ChatOptions, ChatSession, prepare_chat
from mlxk2.operations.chat_settings import ChatSettings
from mlxk2.operations.chat_turns import Turn
from mlxk2.runner.request import EngineOptions, Sampling
from mlxk2.store.model_ref import WORKSPACE, ModelRef

_FIGURES = re.compile(r"(\d+) tokens(?:, cut off)? · \S+ tokens/s · .* · (\d+) tokens read, (\d+) kept · context (\d+)")
GREEDY = ChatSettings(Sampling(temperature=0), max_tokens=8)


@dataclass(frozen=True)
class Figures:
    """What --verbose told of one answer."""

    said: int
    read: int
    kept: int
    used: int


@dataclass(frozen=True)
class Talk:
    """What a chat left: exit code, the answers on stdout, everything else on stderr."""

    result: Result

    @property
    def code(self) -> int:
        return self.result.code

    @property
    def answers(self) -> str:
        return self.result.stdout

    @property
    def told(self) -> str:
        return self.result.stderr

    @property
    def figures(self) -> list[Figures]:
        return [Figures(*map(int, found)) for found in _FIGURES.findall(self.told)]


@pytest.fixture
def talk(isolated_cache: IsolatedCache) -> Callable[..., Talk]:
    """Type lines into a chat with a model folder, and return what came of it; the input then ends."""

    def run(model: Path, *lines: str, flags: tuple[str, ...] = (), env: dict[str, str] | None = None) -> Talk:
        typed = "".join(line + "\n" for line in lines)
        env = {**isolated_cache.env, "NO_COLOR": "1", **(env or {})}
        return Talk(call("run", str(model), *flags, stdin=typed, terminal=True, env=env))

    return run


@pytest.fixture
def session_of() -> Iterator[Callable[..., ChatSession]]:
    """Make a session with a model folder; it is closed after the test."""
    sessions: list[ChatSession] = []

    def make(
        path: Path, settings: ChatSettings = GREEDY, *, engine: EngineOptions | None = None, **options: Any
    ) -> ChatSession:
        ref = ModelRef(f"./{path.name}", path, None, WORKSPACE)
        plan = prepare_chat(ref, ChatOptions(settings, engine or EngineOptions()), **options)
        sessions.append(ChatSession(plan))
        return sessions[-1]

    yield make
    for session in sessions:
        session.__exit__(None, None, None)


def drain(steps: Any) -> Turn:
    """Run a turn to its end."""
    turn: Turn = driving.drain(steps, None)
    return turn


def warnings_of(steps: Any) -> list[str]:
    """Run a turn to its end and return what it warned of."""
    events: list[Event] = []
    driving.drain(steps, events.append)
    return [event.message for event in events if isinstance(event, Warned)]
