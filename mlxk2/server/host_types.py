"""What the HTTP side knows of the host: how it is set up, how it is, and what can be asked of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Callable, NamedTuple, Protocol

from mlxk2.errors import MlxkError
from mlxk2.server.protocol import Command, EngineSpec, Ready, RequestEvent, Status

# What a host is doing; "none": no model is loaded, and none is on its way.
NONE, LOADING, READY, RESTARTING, FAILED, STOPPING = "none", "loading", "ready", "restarting", "failed", "stopping"


@dataclass(frozen=True)
class HostSettings:
    """How many requests, and how much patience. Units: seconds; None: without end.

    `queue_timeout_s` is the time until a request's turn, the loading of its model included. `most_deaths`: so many engines
    in a row may die without an answer before the host gives up.
    """

    default_model: str | None = None
    max_concurrency: int = 32
    max_queue: int = 256
    queue_timeout_s: float | None = 300.0
    idle_timeout_s: float | None = None
    load_timeout_s: float = 1800.0
    hang_timeout_s: float = 120.0
    first_delay_s: float = 0.1
    longest_delay_s: float = 30.0
    most_deaths: int = 5
    end_timeout_s: float = 5.0


@dataclass(frozen=True)
class HostSnapshot:
    """How the host is. Times are seconds since 1970; `problem` says why there is no engine, where that is not as it should be.

    `running` requests are being answered, `waiting` ones are not yet, wherever they wait; `restarts` counts engines that were lost;
    after `retry_after_s` seconds those that are here now may be done.
    """

    state: str
    model: str | None
    ready: Ready | None
    status: Status | None
    pid: int | None
    running: int
    waiting: int
    max_concurrency: int
    max_queue: int
    restarts: int
    problem: str | None
    started_at: float
    loaded_at: float | None
    retry_after_s: int = 1


class Obituary(NamedTuple):
    """What became of the last engine, where it did not end as asked to."""

    spec: EngineSpec
    state: str
    problem: MlxkError
    deaths: int


class HostLike(Protocol):
    """What the HTTP side asks of a host."""

    def submit(self, model: str | None, make: Callable[[str], Command]) -> AsyncIterator[RequestEvent]:
        """Yield the events of a request; see ModelHost."""
        ...

    async def name_of(self, model: str | None) -> str:
        """Return the whole name of a model, None being the one that requests get which name none."""
        ...

    async def load(self, model: str) -> None:
        """Return when the model is loaded."""
        ...

    async def unload(self, model: str) -> None:
        """Return when the model is not loaded any more."""
        ...

    def snapshot(self) -> HostSnapshot:
        """Say how the host is."""
        ...


Resolve = Callable[[str], EngineSpec]
