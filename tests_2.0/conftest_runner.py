"""Fixtures of the runner's tests: models whose answers are known, and runners that are closed again."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import pytest
from support.tiny_model import TinyOptions, scripted_model, tiny_model

from mlxk2 import driving
from mlxk2.events import Delta, Event, Finished
from mlxk2.inspection.files import ModelFiles
from mlxk2.runner.answer import Answer
from mlxk2.runner.request import GenerationRequest, Message, Sampling
from mlxk2.runner.runner import MLXRunner
from mlxk2.store.model_ref import WORKSPACE, ModelRef


@dataclass(frozen=True)
class Told:
    """What a generation told: all its events and what it returned."""

    events: tuple[Event, ...]
    answer: Answer

    @property
    def deltas(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Delta)]

    @property
    def finished(self) -> Finished:
        last = self.events[-1]
        assert isinstance(last, Finished)
        return last


def drain(steps: Generator[Event, None, Answer]) -> Told:
    """Run a generation to its end."""
    events: list[Event] = []
    answer = driving.drain(steps, events.append)
    return Told(tuple(events), answer)


def chat(text: str = "hi", **options: Any) -> GenerationRequest:
    """A request with one message of the user; greedy unless told otherwise."""
    options.setdefault("sampling", Sampling(temperature=0))
    return GenerationRequest(messages=(Message("user", text),), **options)


def raw(text: str = "hi", **options: Any) -> GenerationRequest:
    """A request with raw text; greedy unless told otherwise."""
    options.setdefault("sampling", Sampling(temperature=0))
    return GenerationRequest(prompt=text, **options)


def files_of(path: Path) -> ModelFiles:
    """Read a model folder."""
    return ModelFiles.read(ModelRef(path.name, path, None, WORKSPACE))


@pytest.fixture
def scripted(tmp_path: Path) -> Callable[..., Path]:
    """Make a model that answers a given text."""
    return lambda text="", *args, **options: scripted_model(tmp_path / "scripted", text, *args, **options)


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., Path]:
    """Make a random model."""
    return lambda **options: tiny_model(tmp_path / "tiny", TinyOptions(**options))


@pytest.fixture
def runner_of() -> Iterator[Callable[..., MLXRunner]]:
    """Make a runner for a model folder; it is closed after the test."""
    runners: list[MLXRunner] = []

    def make(path: Path, **options: Any) -> MLXRunner:
        runners.append(MLXRunner(files_of(path), **options))
        return runners[-1]

    yield make
    for runner in runners:
        runner.close()


@pytest.fixture
def tell(runner_of: Callable[..., MLXRunner]) -> Callable[..., Told]:
    """Load a model, ask it one thing, return what it told."""
    return lambda path, request=None, **options: drain(runner_of(path, **options).generate(request or chat()))
