"""Keeps the engine of one model alive: starts it, watches it, starts it again when it is lost, and gives up in the end."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import Any, Callable, get_args

from mlxk2.errors import EngineLost, MlxkError
from mlxk2.server.engine_process import EngineHandle, StartEngine
from mlxk2.server.host_types import FAILED, LOADING, NONE, READY, RESTARTING, HostSettings
from mlxk2.server.problems import error_of
from mlxk2.server.protocol import LAST, Cancel, EngineSpec, LoadFailed, Ready, RequestEvent, Status
from mlxk2.server.ticket import Ticket
from mlxk2.text import one_line

LOG = logging.getLogger("mlxk2.server")

_OF_REQUESTS = get_args(RequestEvent)
# Seconds after which an engine that was ready counts as one that works, whether it was asked anything or not.
_SETTLED_S = 60.0
# Seconds that a killed process may take to be gone.
_KILLED_S = 5.0


class EngineKeeper:
    """One model and its engine. `changed` is called whenever something happened that others may wait for.

    `deaths` counts engines that died in a row without having answered anything, `lost` all that died. Everything
    happens in the event loop's thread.
    """

    def __init__(
        self,
        spec: EngineSpec,
        settings: HostSettings,
        start_engine: StartEngine,
        changed: Callable[[], None],
        deaths: int = 0,
    ) -> None:
        self.spec, self.state, self.deaths, self.lost = spec, LOADING, deaths, 0
        self.running: dict[str, Ticket] = {}
        self.ready: Ready | None = None
        self.status: Status | None = None
        self.loaded_at: float | None = None
        self._ready_at: float | None = None
        self.problem: MlxkError | None = None
        self._settings, self._start_engine, self._changed = settings, start_engine, changed
        self._loop = asyncio.get_running_loop()
        self._engine: EngineHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._gone: asyncio.Future[None] | None = None
        self._sign_of_life = 0.0
        self._verdict: str | None = None
        self._load_failed = False
        self._start()

    @property
    def is_over(self) -> bool:
        """Whether there will be no engine any more: `problem` says why, where it was not asked to end."""
        return self.state in (FAILED, NONE)

    @property
    def begun(self) -> int:
        """How many of `running` the engine works on; the others wait in it for their turn."""
        return sum(ticket.has_begun for ticket in self.running.values())

    @property
    def pid(self) -> int | None:
        return None if self._engine is None else self._engine.pid

    def submit(self, ticket: Ticket) -> None:
        """Hand a request to the engine, which must be ready."""
        assert self._engine is not None and ticket.command is not None
        if not self.running:
            self._sign_of_life = self._loop.time()
            self._arm(self._settings.hang_timeout_s, self._look_for_life)
        self._engine.send(ticket.command)
        self.running[ticket.id] = ticket

    def cancel(self, ticket: Ticket) -> None:
        """Give a request up, where it is not over yet."""
        if self.running.pop(ticket.id, None) is not None and self._engine is not None:
            self._engine.send(Cancel(ticket.id))
            self._changed()

    async def end(self, timeout_s: float) -> None:
        """Return when the process has ended, by itself within `timeout_s`, or killed."""
        self._disarm()
        if self._engine is not None:
            self._gone = self._loop.create_future()
            self._engine.stop()
            done, _ = await asyncio.wait([self._gone], timeout=timeout_s)
            if not done:
                LOG.warning("engine %s did not end when asked to, and is killed", self.pid)
                self._engine.kill()
                await asyncio.wait([self._gone], timeout=_KILLED_S)
        self.state = NONE

    def hurry(self) -> None:
        """Kill an engine that was asked to end."""
        if self._gone is not None and self._engine is not None:
            self._engine.kill()

    # --- what the engine tells -----------------------------------------------------------------------------------

    def heard(self, events: Any) -> None:
        """Take what the engine said."""
        for event in events if isinstance(events, tuple) else (events,):
            # An engine that is being killed has nothing more to say.
            if self._verdict is None:
                self._take(event)

    def ended(self, how: str) -> None:
        """Take note that the process is gone, for whatever reason."""
        pid, self._engine = self.pid, None
        self._disarm()
        if self._gone is not None:
            self._gone.set_result(None)
        elif self._load_failed:
            self.state = NONE
        else:
            self._mourn(pid, self._verdict or how)
        self._verdict, self.status = None, None
        self._changed()

    def _take(self, event: Any) -> None:
        if isinstance(event, _OF_REQUESTS):
            self._sign_of_life = self._loop.time()
            ticket = self.running.get(event.id)
            if ticket is not None:
                self._pass_on(event, ticket)
        elif isinstance(event, Status):
            if self.status is None or event.steps != self.status.steps or not event.running + event.waiting:
                self._sign_of_life = self._loop.time()
            self.status = event
        elif isinstance(event, Ready):
            self._be_ready(event)
        elif isinstance(event, LoadFailed):
            self._load_failed, self.problem = True, error_of(event.problem)
            self._arm(_KILLED_S, partial(self._kill, "did not end after it could not be loaded"))
        else:
            self._kill(f"said what cannot be understood ({type(event).__name__})")

    def _pass_on(self, event: Any, ticket: Ticket) -> None:
        if not ticket.put(event):
            self.cancel(ticket)
        elif isinstance(event, LAST):
            del self.running[event.id]
            self.deaths = 0
            self._changed()

    def _be_ready(self, event: Ready) -> None:
        self._disarm()
        self.ready, self.state, self.loaded_at, self.problem = event, READY, time.time(), None
        self._ready_at = self._loop.time()
        LOG.info("%s is loaded (engine %s)", self.spec.ref.name, self.pid)
        if event.has_tools and not event.finds_calls:
            LOG.warning("how %s writes tool calls is not known: they come as text, unless demanded", self.spec.ref.name)
        self._changed()

    # --- its life --------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._arm(self._settings.load_timeout_s, self._give_up_loading)
        try:
            self._engine = self._start_engine(self.spec, self)
        except (OSError, RuntimeError) as error:
            # No process, or no thread to watch it: those who wait for the engine must hear of it.
            LOG.error("an engine could not be started", exc_info=error)
            why = error.strerror if isinstance(error, OSError) else str(error) or type(error).__name__
            self._loop.call_soon(self.ended, f"could not be started: {one_line(str(why))}")

    def _mourn(self, pid: int | None, how: str) -> None:
        """Fail what the engine was answering, and see whether to start another."""
        settled = self._ready_at is not None and self._loop.time() - self._ready_at > _SETTLED_S
        self.lost += 1
        self.deaths = 1 if settled else self.deaths + 1
        self.loaded_at = self._ready_at = None
        name = self.spec.ref.name
        LOG.error("the engine of %s (%s) %s while %d requests were running", name, pid, how, len(self.running))
        self._fail_running(EngineLost(f"the engine {how} while it was answering", hint="try again: it is started anew"))
        self.problem = EngineLost(f"the engine of {name} {how}")
        if self.deaths >= self._settings.most_deaths:
            self.state = FAILED
            self.problem = EngineLost(
                f"the engine of {name} died {self.deaths} times in a row without an answer, the last one {how}",
                hint="the server's log says more; the next request tries once more",
            )
            LOG.error("%s", self.problem.message)
            return
        self.state = RESTARTING
        delay = min(self._settings.first_delay_s * 2 ** (self.deaths - 1), self._settings.longest_delay_s)
        self._arm(delay, self._start)

    def _fail_running(self, error: MlxkError) -> None:
        for ticket in self.running.values():
            ticket.fail(error)
        self.running.clear()

    def _give_up_loading(self) -> None:
        self._kill(f"was not ready after {self._settings.load_timeout_s:g} s")

    def _look_for_life(self) -> None:
        """Kill an engine that is busy and gets nowhere; else look again when it could be."""
        if not self.running:
            return
        silence = self._loop.time() - self._sign_of_life
        if silence >= self._settings.hang_timeout_s:
            self._kill(f"made no step for {self._settings.hang_timeout_s:g} s")
        else:
            self._arm(self._settings.hang_timeout_s - silence, self._look_for_life)

    def _kill(self, verdict: str) -> None:
        if self._engine is not None:
            self._verdict = self._verdict or verdict
            self._engine.kill()

    def _arm(self, seconds: float, work: Callable[[], None]) -> None:
        self._disarm()
        self._timer = self._loop.call_later(seconds, work)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
