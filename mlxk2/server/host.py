"""The engine as the HTTP side has it: requests wait for their model's turn, one model is loaded at a time.

Turns go round: a request for the loaded model is handed over at once, unless one for another model waits already. Then
the loaded model finishes what it was given, makes way, and everything that waits for the next model is handed over
together. Everything happens in one event loop, and nothing here blocks it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Callable
from uuid import uuid4

from mlxk2.errors import (
    InternalError,
    ModelNotFound,
    QueueFull,
    ServerStopping,
    WaitedTooLong,
)
from mlxk2.server.engine_keeper import EngineKeeper
from mlxk2.server.engine_process import EngineProcess, StartEngine
from mlxk2.server.host_types import FAILED, NONE, READY, STOPPING, HostSettings, HostSnapshot, Obituary, Resolve
from mlxk2.server.look_ups import LookUps
from mlxk2.server.protocol import Command, EngineSpec, RequestEvent
from mlxk2.server.ticket import Ticket

LOG = logging.getLogger("mlxk2.server")

# Of the time to stop, the part that answers have to come to their own end.
_PART_FOR_ANSWERS = 0.7
_LONGEST_RETRY_S = 60


class ModelHost:
    """Requests in, events out; loads, switches, restarts and unloads models as the requests need it.

    `resolve` finds the model of a name, in a thread; it raises ModelNotFound, AmbiguousMatch, ModelUnhealthy...
    """

    def __init__(self, resolve: Resolve, settings: HostSettings, *, start_engine: StartEngine = EngineProcess) -> None:
        self._settings, self._start_engine = settings, start_engine
        self._look_ups = LookUps(resolve)
        self._line: list[Ticket] = []
        self._tickets: set[Ticket] = set()
        self._keeper: EngineKeeper | None = None
        self._obituary: Obituary | None = None
        self._lost = 0
        self._seconds_each = 1.0
        self._started_at = time.time()
        self._stopping = self._is_hurried = False
        self._idle: asyncio.TimerHandle | None = None
        self._turns: asyncio.Task[None] | None = None
        self._changed: asyncio.Event | None = None

    async def start(self) -> None:
        """Begin to take requests; nothing is loaded yet. Does nothing the second time."""
        if self._turns is None:
            self._changed = asyncio.Event()
            self._turns = asyncio.create_task(self._take_turns())
            self._turns.add_done_callback(self._turns_are_over)

    async def stop(self, timeout_s: float = 5.0) -> None:
        """Return within `timeout_s`, more or less: waiting requests fail, running ones may end, the engine ends.

        Called again meanwhile it returns at once, and the first call waits for nothing more.
        """
        if self._turns is None or self._stopping:
            self._hurry()
            return
        self._stopping = True
        end = time.monotonic() + timeout_s
        for ticket in self._line:
            ticket.fail(_stopping())
        self._line.clear()
        await self._drained(timeout_s * _PART_FOR_ANSWERS)
        for ticket in self._tickets:
            ticket.fail(_stopping())
        self._turns.cancel()
        await asyncio.wait({self._turns})
        self._rest()
        if self._keeper is not None:
            await self._keeper.end(0 if self._is_hurried else max(end - time.monotonic(), 0.1))
            self._keep_count(self._keeper)

    def _hurry(self) -> None:
        self._is_hurried = True
        self._notice()
        if self._keeper is not None:
            self._keeper.hurry()

    async def submit(self, model: str | None, make: Callable[[str], Command]) -> AsyncGenerator[RequestEvent, None]:
        """Yield the events of the command that `make` makes of an id; closing the iterator gives the request up.

        `model` None means the default model, or the loaded one. A request that fails raises, it yields no Failed.

        Raises: QueueFull, WaitedTooLong, EngineLost, ServerStopping, what `resolve` raises, what the engine says.
        """
        self._refuse_if_full(self._load)
        spec = await self._find(model)
        id = uuid4().hex
        ticket = Ticket(id, spec, make(id))
        with self._place_for(ticket):
            event = await ticket.take()
            began = time.monotonic()
            while event is not None:
                yield event
                event = await ticket.take()
            # Lately counts more than long ago; how long it waited for its turn is no matter.
            self._seconds_each += (time.monotonic() - began - self._seconds_each) / 8

    async def name_of(self, model: str | None) -> str:
        """Return the whole name of the model that `submit` would ask. Raises: ModelNotFound, what `resolve` raises."""
        return (await self._find(model)).ref.name

    async def load(self, model: str) -> None:
        """Return when the model is loaded, after its turn came. Raises as `submit` does."""
        self._refuse_if_full(len(self._tickets))
        await self._wait_for_turn(Ticket(uuid4().hex, await self._find(model, is_request=False)))

    async def unload(self, model: str) -> None:
        """Return when the model is not loaded any more; what runs on it ends first. Raises: what `resolve` raises."""
        loaded = self._keeper.spec if self._keeper is not None else None
        spec = loaded if loaded is not None and loaded.ref.name == model else await self._find(model, is_request=False)
        if self._keeper is not None and self._keeper.spec == spec:
            await self._wait_for_turn(Ticket(uuid4().hex, None, leaving=spec))

    def snapshot(self) -> HostSnapshot:
        """Say how the host is."""
        keeper, last = self._keeper, self._obituary
        running = keeper.begun if keeper is not None else 0
        state = keeper.state if keeper is not None else last.state if last is not None else NONE
        problem = keeper.problem if keeper is not None else last.problem if last is not None else None
        if self._turns is not None and self._turns.done():
            state, problem = FAILED, _broken()
        return HostSnapshot(
            state=STOPPING if self._stopping else state,
            model=keeper.spec.ref.name if keeper is not None else None,
            ready=keeper.ready if keeper is not None and keeper.state == READY else None,
            status=keeper.status if keeper is not None else None,
            pid=keeper.pid if keeper is not None else None,
            running=running,
            waiting=self._load - running,
            max_concurrency=self._settings.max_concurrency,
            max_queue=self._settings.max_queue,
            restarts=self._lost + (keeper.lost if keeper is not None else 0),
            problem=None if problem is None else problem.message,
            started_at=self._started_at,
            loaded_at=keeper.loaded_at if keeper is not None else None,
            retry_after_s=self._retry(),
        )

    # --- a request -------------------------------------------------------------------------------------------------

    @contextmanager
    def _place_for(self, ticket: Ticket) -> Iterator[None]:
        """Stand in line; whatever ends this, the place is free again."""
        patience_s = self._settings.queue_timeout_s
        self._join(ticket)
        if ticket.command is not None and patience_s is not None:
            ticket.limit(patience_s, partial(self._too_late, patience_s))
        try:
            yield
        finally:
            self._leave(ticket)

    async def _wait_for_turn(self, ticket: Ticket) -> None:
        with self._place_for(ticket):
            await ticket.take()

    def _join(self, ticket: Ticket) -> None:
        if self._stopping or self._turns is None:
            raise _stopping()
        if self._turns.done():
            raise _broken()
        self._rest()
        self._tickets.add(ticket)
        self._line.append(ticket)
        self._notice()

    def _leave(self, ticket: Ticket) -> None:
        ticket.close()
        self._tickets.discard(ticket)
        if ticket in self._line:
            self._line.remove(ticket)
        if self._keeper is not None:
            self._keeper.cancel(ticket)
        self._notice()

    def _refuse_if_full(self, here: int) -> None:
        """Raises: QueueFull, ServerStopping."""
        if self._stopping:
            raise _stopping()
        most = self._settings.max_concurrency + self._settings.max_queue
        if here >= most:
            raise QueueFull(
                f"the server has {most} requests, and takes no more",
                hint="try again later",
                retry_after_s=self._retry(),
            )

    @property
    def _load(self) -> int:
        """How many requests there are; who waits for a model alone, or for its end, is none."""
        in_line = sum(ticket.command is not None for ticket in self._line)
        return (len(self._keeper.running) if self._keeper is not None else 0) + in_line + self._look_ups.asking

    def _retry(self) -> int:
        """Seconds after which those that are here now may be done, so many at a time as they are answered."""
        rounds = self._load / self._settings.max_concurrency
        return max(1, min(math.ceil(rounds * self._seconds_each), _LONGEST_RETRY_S))

    def _too_late(self, seconds: float) -> WaitedTooLong:
        return WaitedTooLong(f"the request's turn did not come within {seconds:g} s", retry_after_s=self._retry())

    async def _find(self, model: str | None, *, is_request: bool = True) -> EngineSpec:
        """Return what a name means. Raises: ModelNotFound, what `resolve` raises."""
        name = model if model is not None else self._settings.default_model
        if name is None:
            if self._keeper is None:
                raise ModelNotFound("no model is loaded, and the request names none", hint="GET /v1/models lists them")
            return self._keeper.spec
        return await self._look_ups.find(name, is_request=is_request)

    # --- the turns -------------------------------------------------------------------------------------------------

    def _notice(self) -> None:
        """Let whoever waits for a change look again."""
        if self._changed is not None:
            self._changed.set()

    async def _take_turns(self) -> None:
        assert self._changed is not None
        while True:
            await self._changed.wait()
            self._changed.clear()
            self._tell_the_line()
            while self._line and await self._serve(self._line[0].spec):
                self._tell_the_line()
            if not self._line:
                self._doze()

    def _turns_are_over(self, turns: asyncio.Task[None]) -> None:
        """Where that was not asked for, it is a bug: nobody may wait for a turn that never comes."""
        if turns.cancelled():
            return
        LOG.critical("the host is broken", exc_info=turns.exception())
        for ticket in self._tickets:
            ticket.fail(_broken())
        self._line.clear()

    def _tell_the_line(self) -> None:
        self._bury()
        loaded = self._keeper.spec if self._keeper is not None else None
        gone = [ticket for ticket in self._line if ticket.leaving is not None and ticket.leaving != loaded]
        for ticket in gone:
            self._line.remove(ticket)
            ticket.finish()
            if self._obituary is not None and self._obituary.spec == ticket.leaving:
                self._obituary = None

    async def _serve(self, spec: EngineSpec | None) -> bool:
        """Do the next thing for those who wait for `spec`; False where that must wait for a change."""
        keeper = self._keeper
        if keeper is None:
            assert spec is not None
            self._keeper = self._new_keeper(spec)
            return False
        if keeper.spec == spec:
            if keeper.state == READY:
                self._admit(spec, keeper)
            return keeper.state == READY
        if keeper.running:
            return False
        await keeper.end(self._settings.end_timeout_s)
        self._keep_count(keeper)
        return True

    def _admit(self, spec: EngineSpec, keeper: EngineKeeper) -> None:
        """Hand over everything that waits for this turn."""
        mine = [ticket for ticket in self._line if ticket.spec == spec]
        self._line = [ticket for ticket in self._line if ticket.spec != spec]
        for ticket in mine:
            if ticket.command is None:
                ticket.finish()
            else:
                keeper.submit(ticket)

    def _new_keeper(self, spec: EngineSpec) -> EngineKeeper:
        """Start an engine; for a model that was given up there is one try."""
        last, self._obituary = self._obituary, None
        deaths = self._settings.most_deaths - 1 if last is not None and last[:2] == (spec, FAILED) else 0
        return EngineKeeper(spec, self._settings, self._start_engine, self._notice, deaths)

    def _bury(self) -> None:
        """Where there will be no engine any more, tell those who wait for it."""
        keeper = self._keeper
        if keeper is None or not keeper.is_over:
            return
        problem = keeper.problem or ServerStopping("the engine was ended")
        for ticket in self._line:
            if ticket.spec == keeper.spec:
                ticket.fail(problem)
        self._line = [ticket for ticket in self._line if ticket.spec != keeper.spec]
        self._obituary = Obituary(keeper.spec, keeper.state, problem, keeper.deaths)
        self._keep_count(keeper)

    def _keep_count(self, keeper: EngineKeeper) -> None:
        self._lost += keeper.lost
        self._keeper = None

    async def _drained(self, timeout_s: float) -> None:
        """Return when nothing is running any more, or after `timeout_s`."""
        assert self._changed is not None
        end = time.monotonic() + timeout_s
        while not self._is_hurried and self._keeper is not None and self._keeper.running and time.monotonic() < end:
            self._changed.clear()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), end - time.monotonic())

    # --- idleness --------------------------------------------------------------------------------------------------

    def _doze(self) -> None:
        """Unload the model later, unless somebody comes."""
        self._rest()
        keeper, limit = self._keeper, self._settings.idle_timeout_s
        if limit is not None and keeper is not None and not keeper.running and not self._stopping:
            self._idle = asyncio.get_running_loop().call_later(limit, self._unload_idle)

    def _unload_idle(self) -> None:
        self._idle = None
        if self._look_ups.is_busy:
            self._doze()
        elif self._keeper is not None and not self._keeper.running and not self._line:
            # Nobody waits for that.
            self._line.append(Ticket(uuid4().hex, None, leaving=self._keeper.spec))
            self._notice()

    def _rest(self) -> None:
        """Take the unloading back."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None


def _stopping() -> ServerStopping:
    return ServerStopping("the server is stopping")


def _broken() -> InternalError:
    return InternalError("the server is broken, and must be started anew; its log says how")
