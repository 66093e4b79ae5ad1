"""The host keeps its promises, whatever the engine does: a fake engine in a real process crashes, hangs, babbles.

Every wait has an end (`PATIENCE_S`), so a consumer that hangs is a failure, not a stuck suite.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import AsyncGenerator, Coroutine
from functools import partial
from typing import Any, Callable

import pytest
from support import fake_engine
from support.fake_engine import PIECES, spec_of
from support.processes import gone

from mlxk2.errors import (
    EngineLost,
    InsufficientMemory,
    InternalError,
    MlxkError,
    ModelNotFound,
    QueueFull,
    ReaderTooSlow,
    ServerStopping,
    WaitedTooLong,
)
from mlxk2.runner.request import GenerationRequest
from mlxk2.server.engine_process import EngineProcess
from mlxk2.server.host import ModelHost
from mlxk2.server.host_types import FAILED, NONE, READY, RESTARTING, HostSettings
from mlxk2.server.protocol import Begun, Command, Count, Counted, EngineSpec, Generate, Over, Piece, Ready, RequestEvent

PATIENCE_S = 120.0
REQUEST = GenerationRequest(prompt="hello")
ANSWER = "".join(f"{number} " for number in range(PIECES))

Story = Callable[[ModelHost], Coroutine[Any, Any, None]]


def tell(story: Story, resolve: Callable[[str], EngineSpec] = spec_of, **settings: Any) -> None:
    """Run a story with a host, and see that no engine is left."""

    async def whole() -> None:
        engines: list[EngineProcess] = []

        def start(spec: EngineSpec, listener: Any) -> EngineProcess:
            engines.append(EngineProcess(spec, listener, fake_engine.TARGET))
            return engines[-1]

        host = ModelHost(resolve, HostSettings(**{"first_delay_s": 0.01, **settings}), start_engine=start)
        await host.start()
        try:
            await story(host)
        finally:
            await host.stop()
        assert [engine.pid for engine in engines if not gone(engine.pid)] == []

    asyncio.run(asyncio.wait_for(whole(), PATIENCE_S))


def ask(host: ModelHost, model: str | None) -> AsyncGenerator[RequestEvent, None]:
    return host.submit(model, lambda id: Generate(id, REQUEST))


async def answer(host: ModelHost, model: str | None) -> str:
    """The whole answer. Raises what went wrong."""
    events = [event async for event in ask(host, model)]
    assert isinstance(events[0], Begun)
    assert isinstance(events[-1], Over)
    return "".join(event.text for event in events if isinstance(event, Piece))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


async def under_way(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Work that has got as far as it can without waiting."""
    task = asyncio.create_task(work)
    # Its turn comes before this one.
    has_begun = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(has_begun.set_result, None)
    await has_begun
    return task


async def begin(host: ModelHost, model: str) -> AsyncGenerator[RequestEvent, None]:
    """A request whose answer has begun."""
    events = ask(host, model)
    await events.__anext__()
    return events


# --- the plain way ----------------------------------------------------------------------------------------------------


def test_a_model_is_loaded_when_it_is_asked_for() -> None:
    async def story(host: ModelHost) -> None:
        assert (host.snapshot().state, host.snapshot().pid) == (NONE, None)
        assert await answer(host, "fine") == ANSWER
        told = host.snapshot()
        assert (told.state, told.model, told.restarts, told.problem) == (READY, "fine", 0, None)
        assert told.ready is not None and told.ready.context_length == 256
        assert told.pid is not None and not gone(told.pid)

    tell(story)


def test_requests_that_come_while_the_model_is_loaded_wait_for_it() -> None:
    async def story(host: ModelHost) -> None:
        assert await asyncio.gather(*(answer(host, "late") for _ in range(5))) == [ANSWER] * 5

    tell(story)


def test_other_commands_go_the_same_way() -> None:
    async def story(host: ModelHost) -> None:
        events = [event async for event in host.submit("fine", lambda id: Count(id, REQUEST))]
        assert [event.tokens for event in events if isinstance(event, Counted)] == [3]

    tell(story)


def test_without_a_name_the_default_model_answers_or_the_loaded_one() -> None:
    async def named(host: ModelHost) -> None:
        assert await answer(host, None) == ANSWER
        assert host.snapshot().model == "fine.default"

    async def loaded(host: ModelHost) -> None:
        with pytest.raises(ModelNotFound, match="names none"):
            await answer(host, None)
        await host.load("fine")
        assert await answer(host, None) == ANSWER

    tell(named, default_model="fine.default")
    tell(loaded)


def test_a_flood_arrives_whole_and_others_are_served_meanwhile() -> None:
    async def story(host: ModelHost) -> None:
        flood = asyncio.create_task(answer(host, "flood"))
        ticks = 0
        while not flood.done():
            await asyncio.sleep(0.001)
            ticks += 1
        assert len(await flood) == len("".join(map(str, range(20_000)))) + len(ANSWER)
        assert ticks > 10

    tell(story)


# --- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [0, 1, 3])
def test_a_crash_fails_its_requests_only_and_the_engine_comes_back(pieces: int) -> None:
    async def story(host: ModelHost) -> None:
        said = []
        with pytest.raises(EngineLost, match="SIGABRT") as lost:
            async for event in ask(host, f"crash-{pieces}"):
                said.append(event)
        assert (lost.value.http_status, lost.value.retryable) == (503, True)
        assert sum(isinstance(event, Piece) for event in said) == pieces
        await until(lambda: host.snapshot().state == READY)
        assert host.snapshot().restarts == 1
        assert await answer(host, "fine") == ANSWER

    tell(story)


def test_all_requests_of_a_crash_fail_and_each_with_an_error_of_its_own() -> None:
    async def story(host: ModelHost) -> None:
        streams = [await begin(host, "slow") for _ in range(3)]
        os.kill(host.snapshot().pid or 0, signal.SIGKILL)
        errors = []
        for stream in streams:
            with pytest.raises(EngineLost, match="SIGKILL") as lost:
                async for _ in stream:
                    pass
            errors.append(lost.value)
        assert len(set(map(id, errors))) == 3
        assert host.snapshot().state == RESTARTING

    tell(story)


def test_an_engine_that_cannot_live_is_given_up_and_tried_again_when_asked() -> None:
    async def story(host: ModelHost) -> None:
        with pytest.raises(EngineLost, match="died 3 times in a row"):
            await answer(host, "no-start")
        told = host.snapshot()
        assert (told.state, told.restarts) == (FAILED, 3)
        assert told.problem is not None and "3 times" in told.problem
        with pytest.raises(EngineLost):
            await answer(host, "no-start")
        assert host.snapshot().restarts == 4
        assert await answer(host, "fine") == ANSWER
        assert (host.snapshot().state, host.snapshot().problem) == (READY, None)

    tell(story, most_deaths=3)


def test_an_engine_that_answers_between_its_deaths_is_never_given_up() -> None:
    async def story(host: ModelHost) -> None:
        for _ in range(4):
            assert await answer(host, "fine") == ANSWER
            pid = host.snapshot().pid or 0
            os.kill(pid, signal.SIGKILL)
            await until(lambda pid=pid: host.snapshot().pid not in (pid, None))  # type: ignore[misc]
        assert await answer(host, "fine") == ANSWER
        assert host.snapshot().restarts == 4

    tell(story, most_deaths=2)


@pytest.mark.parametrize(("age_s", "is_given_up"), [(30, True), (90, False)])
def test_an_engine_that_stood_for_a_minute_dies_for_the_first_time(
    age_s: float, is_given_up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def killed(host: ModelHost) -> None:
        before = host.snapshot()
        assert before.pid is not None
        os.kill(before.pid, signal.SIGKILL)
        await until(lambda: host.snapshot().restarts == before.restarts + 1)

    async def story(host: ModelHost) -> None:
        loop, now = asyncio.get_running_loop(), time.monotonic
        # Set back and then right again, as a clock that runs ahead would end this test's own patience.
        monkeypatch.setattr(loop, "time", lambda: now() - age_s)
        await host.load("fine")
        await killed(host)
        await until(lambda: host.snapshot().state == READY)
        monkeypatch.setattr(loop, "time", now)
        await killed(host)
        assert host.snapshot().state == (FAILED if is_given_up else RESTARTING)
        assert await answer(host, "fine") == ANSWER

    tell(story, most_deaths=2)


def test_back_off_grows() -> None:
    async def story(host: ModelHost) -> None:
        began = time.monotonic()
        with pytest.raises(EngineLost):
            await answer(host, "no-start")
        # 0.1 + 0.2 + 0.4 between four deaths.
        assert time.monotonic() - began >= 0.7

    tell(story, most_deaths=4, first_delay_s=0.1)


def test_a_model_that_cannot_be_loaded_says_why_and_leaves_nothing_behind() -> None:
    async def story(host: ModelHost) -> None:
        with pytest.raises(InsufficientMemory, match="too big") as refused:
            await answer(host, "refuses")
        assert (refused.value.hint, refused.value.extra) == ("buy more", {"need": 7})
        told = host.snapshot()
        assert (told.state, told.model, told.restarts, told.problem) == (NONE, None, 0, "too big")
        assert await answer(host, "fine") == ANSWER

    tell(story)


@pytest.mark.parametrize("part", ["garbage", "odd"])
def test_an_engine_that_babbles_is_ended(part: str) -> None:
    async def story(host: ModelHost) -> None:
        with pytest.raises(EngineLost, match="cannot be understood"):
            await answer(host, part)
        assert await answer(host, "fine") == ANSWER

    tell(story)


def test_an_engine_that_hangs_is_ended() -> None:
    async def story(host: ModelHost) -> None:
        with pytest.raises(EngineLost, match="made no step for 2 s"):
            await answer(host, "hang")
        assert await answer(host, "fine") == ANSWER

    tell(story, hang_timeout_s=2.0)


def test_an_engine_that_works_is_no_hang() -> None:
    async def story(host: ModelHost) -> None:
        stream = await begin(host, "slow")
        end = time.monotonic() + 4.5
        while time.monotonic() < end:
            await stream.__anext__()
        await stream.aclose()
        assert host.snapshot().restarts == 0

    tell(story, hang_timeout_s=2.0)


def test_loading_without_end_is_ended() -> None:
    async def story(host: ModelHost) -> None:
        with pytest.raises(EngineLost, match=r"not ready after 0\.3 s"):
            await answer(host, "never")

    tell(story, load_timeout_s=0.3, most_deaths=1)


def test_a_process_that_cannot_be_started_is_a_death_like_any_other() -> None:
    def refuse(spec: EngineSpec, listener: Any) -> EngineProcess:
        raise OSError(11, "Resource temporarily unavailable")

    async def story() -> None:
        host = ModelHost(spec_of, HostSettings(first_delay_s=0.01, most_deaths=2), start_engine=refuse)
        await host.start()
        with pytest.raises(EngineLost, match="could not be started: Resource temporarily"):
            await answer(host, "fine")
        await host.stop()

    asyncio.run(asyncio.wait_for(story(), PATIENCE_S))


def test_whatever_keeps_a_process_from_starting_is_a_death() -> None:
    tries = 0

    def refuse(spec: EngineSpec, listener: Any) -> EngineProcess:
        nonlocal tries
        tries += 1
        raise RuntimeError("can't start new thread")

    async def story() -> None:
        host = ModelHost(spec_of, HostSettings(first_delay_s=0.01, most_deaths=3), start_engine=refuse)
        await host.start()
        with pytest.raises(EngineLost, match="could not be started: can't start new thread"):
            await answer(host, "fine")
        assert (host.snapshot().state, tries) == (FAILED, 3)
        await host.stop()

    asyncio.run(asyncio.wait_for(story(), PATIENCE_S))


@pytest.mark.parametrize("good", [0, 1])
def test_a_process_that_cannot_be_watched_is_ended_and_nothing_stays_open(
    good: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids: list[int] = []
    start, begin_process = threading.Thread.start, subprocess.Popen.__init__

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("engine-") and sum(one.name.startswith("engine-") for one in begun) >= good:
            raise RuntimeError("can't start new thread")
        begun.append(thread)
        start(thread)

    def noting(process: Any, *args: Any, **options: Any) -> None:
        begin_process(process, *args, **options)
        pids.append(process.pid)

    begun: list[threading.Thread] = []
    monkeypatch.setattr(threading.Thread, "start", refuse)
    monkeypatch.setattr(subprocess.Popen, "__init__", noting)

    async def story() -> None:
        for thread in threading.enumerate():
            if thread.name.startswith("engine-"):
                # Of another test's engine, with ends of its own.
                thread.join(PATIENCE_S)
        before = _open_ends()
        with pytest.raises(RuntimeError):
            EngineProcess(spec_of("fine"), _Nobody(), fake_engine.TARGET)
        assert len(pids) == 1 and gone(pids[0])
        for thread in begun:
            thread.join(PATIENCE_S)
        assert _open_ends() == before

    asyncio.run(asyncio.wait_for(story(), PATIENCE_S))


def _open_ends() -> int:
    return len(os.listdir("/dev/fd"))


class _Nobody:
    """Listens to an engine, and must hear nothing."""

    def heard(self, events: Any) -> None:
        raise AssertionError

    def ended(self, how: str) -> None:
        raise AssertionError


def test_a_request_that_cannot_be_sent_fails_alone() -> None:
    async def story(host: ModelHost) -> None:
        stream = await begin(host, "slow")
        bad = GenerationRequest(prompt="hello", template_variables={"f": lambda: None})
        with pytest.raises(InternalError):
            await host.submit("slow", lambda id: Generate(id, bad)).__anext__()
        assert isinstance(await stream.__anext__(), Piece)
        assert host.snapshot().running == 1
        await stream.aclose()

    tell(story)


def test_a_host_that_is_broken_says_so_and_hangs_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(spec: EngineSpec, listener: Any) -> Any:
        # Not even an engine: whatever is asked of it fails.
        asyncio.get_running_loop().call_soon(listener.heard, (Ready(1, 1, True, False, False, False),))
        return None

    async def story() -> None:
        host = ModelHost(spec_of, HostSettings(), start_engine=broken)
        await host.start()
        assert (await _problem_of(answer(host, "fine"))).http_status == 500
        await host.stop(0.5)

    asyncio.run(asyncio.wait_for(story(), PATIENCE_S))


async def _problem_of(work: Coroutine[Any, Any, Any]) -> MlxkError:
    with pytest.raises(MlxkError) as problem:
        await work
    return problem.value


def test_a_command_that_cannot_be_made_or_sent_disturbs_nobody() -> None:
    def bad(id: str) -> Command:
        raise MlxkError("no such field")

    async def story(host: ModelHost) -> None:
        stream = await begin(host, "slow")
        with pytest.raises(MlxkError, match="no such field"):
            await host.submit("slow", bad).__anext__()
        assert isinstance(await stream.__anext__(), Piece)
        assert (host.snapshot().running, host.snapshot().waiting) == (1, 0)
        await stream.aclose()

    tell(story)


def test_an_unknown_name_is_a_fast_error_that_disturbs_nobody() -> None:
    def resolve(name: str) -> EngineSpec:
        if name == "unknown":
            raise ModelNotFound("no such model")
        return spec_of(name)

    async def story(host: ModelHost) -> None:
        stream = await begin(host, "slow")
        pid = host.snapshot().pid
        for work in (answer(host, "unknown"), host.load("unknown"), host.unload("unknown")):
            with pytest.raises(ModelNotFound, match="no such model"):
                await work
        assert isinstance(await stream.__anext__(), Piece)
        assert (host.snapshot().pid, host.snapshot().waiting) == (pid, 0)
        await stream.aclose()

    tell(story, resolve)


def test_ten_random_kills_under_load_hang_nobody() -> None:
    chance = random.Random(7)
    over = False
    counts = {"answered": 0, "lost": 0}

    async def consume(host: ModelHost) -> None:
        while not over:
            try:
                assert await answer(host, "fine") == ANSWER
                counts["answered"] += 1
            except EngineLost:
                counts["lost"] += 1
            await asyncio.sleep(chance.random() * 0.004)

    async def story(host: ModelHost) -> None:
        nonlocal over
        consumers = [asyncio.create_task(consume(host)) for _ in range(8)]
        for _ in range(10):
            await until(lambda: host.snapshot().pid is not None)
            before = counts["answered"]
            await until(lambda before=before: counts["answered"] > before + chance.randrange(40))  # type: ignore[misc]
            pid = host.snapshot().pid
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
                await until(lambda pid=pid: host.snapshot().pid != pid)  # type: ignore[misc]
        over = True
        await asyncio.gather(*consumers)
        assert counts["answered"] > 100
        assert host.snapshot().restarts == 10
        assert await asyncio.gather(*(answer(host, "fine") for _ in range(8))) == [ANSWER] * 8

    tell(story)


# --- turns ------------------------------------------------------------------------------------------------------------


def test_switching_waits_for_what_runs_and_returns_all_memory() -> None:
    async def story(host: ModelHost) -> None:
        stream = await begin(host, "slow")
        first = host.snapshot().pid or 0
        other = asyncio.create_task(answer(host, "fine"))
        await until(lambda: host.snapshot().waiting == 1)
        for _ in range(10):
            assert isinstance(await stream.__anext__(), Piece)
        assert (host.snapshot().model, other.done()) == ("slow", False)
        await stream.aclose()
        assert await other == ANSWER
        assert host.snapshot().model == "fine"
        assert gone(first)

    tell(story)


def test_the_waiting_model_gets_its_turn_however_busy_the_loaded_one_is() -> None:
    async def story(host: ModelHost) -> None:
        stream = await begin(host, "slow")
        order: list[str] = []

        async def note(name: str) -> None:
            await answer(host, name)
            order.append(name)

        other = asyncio.create_task(note("fine.b"))
        await until(lambda: host.snapshot().waiting == 1)
        # It is for the loaded model, and comes later: it must not go first.
        later = asyncio.create_task(begin(host, "slow"))
        more = asyncio.create_task(note("fine.b"))
        await until(lambda: host.snapshot().waiting == 3)
        await stream.aclose()
        await (await later).aclose()
        await asyncio.gather(other, more)
        # Everything that waited for the other model went together, before the first model came back.
        assert order == ["fine.b", "fine.b"]
        assert host.snapshot().model == "slow"

    tell(story)


def test_two_models_asked_by_turns_both_answer() -> None:
    async def story(host: ModelHost) -> None:
        names = ["fine.a", "fine.b"] * 4
        assert await asyncio.gather(*(answer(host, name) for name in names)) == [ANSWER] * 8

    tell(story)


def test_who_leaves_the_line_holds_up_nobody() -> None:
    async def story(host: ModelHost) -> None:
        stream = await begin(host, "slow")
        pid = host.snapshot().pid
        gone_again = asyncio.create_task(answer(host, "fine"))
        await until(lambda: host.snapshot().waiting == 1)
        gone_again.cancel()
        await asyncio.wait([gone_again])
        second = await begin(host, "slow")
        assert (host.snapshot().running, host.snapshot().waiting, host.snapshot().pid) == (2, 0, pid)
        await stream.aclose()
        await second.aclose()

    tell(story)


def test_load_and_unload() -> None:
    async def story(host: ModelHost) -> None:
        await host.load("fine")
        pid = host.snapshot().pid or 0
        assert host.snapshot().state == READY
        await host.load("fine")
        assert host.snapshot().pid == pid
        await host.unload("fine.other")
        assert host.snapshot().pid == pid
        await host.unload("fine")
        assert (host.snapshot().state, host.snapshot().model) == (NONE, None)
        assert gone(pid)
        await host.unload("fine")

    tell(story)


def test_unloading_waits_for_what_runs() -> None:
    async def story(host: ModelHost) -> None:
        stream = await begin(host, "slow")
        unloading = await under_way(host.unload("slow"))
        assert isinstance(await stream.__anext__(), Piece)
        await stream.aclose()
        await unloading
        assert host.snapshot().state == NONE

    tell(story)


def test_unloading_unloads_no_other_model() -> None:
    async def story(host: ModelHost) -> None:
        stream = await begin(host, "slow")
        other = asyncio.create_task(answer(host, "fine"))
        await until(lambda: host.snapshot().waiting == 1)
        unloading = await under_way(host.unload("slow"))
        await stream.aclose()
        assert await other == ANSWER
        await unloading
        # Whatever is done wrongly would be done before this is answered.
        pid = host.snapshot().pid
        assert [event async for event in host.submit("fine", lambda id: Count(id, REQUEST))]
        assert (host.snapshot().model, host.snapshot().pid) == ("fine", pid)

    tell(story)


def test_an_unloading_that_came_too_late_waits_for_nothing() -> None:
    async def story(host: ModelHost) -> None:
        stream = await begin(host, "slow")
        other = asyncio.create_task(answer(host, "never"))
        await until(lambda: host.snapshot().waiting == 1)
        unloading = await under_way(host.unload("slow"))
        await stream.aclose()
        # The other model is on its way, and will never be there.
        await unloading
        other.cancel()
        await asyncio.wait([other])

    tell(story, end_timeout_s=0.2)


def test_a_model_is_not_idle_while_somebody_asks() -> None:
    looked_up = threading.Event()

    def resolve(name: str) -> EngineSpec:
        if name == "fine.late":
            looked_up.wait(PATIENCE_S)
            raise ModelNotFound("no such model")
        return spec_of(name)

    async def story(host: ModelHost) -> None:
        assert await answer(host, "fine") == ANSWER
        asking = asyncio.create_task(answer(host, "fine.late"))
        await until(lambda: host.snapshot().waiting == 1)
        end = time.monotonic() + 0.4
        while time.monotonic() < end:
            assert host.snapshot().state == READY
            await asyncio.sleep(0.01)
        looked_up.set()
        await _problem_of(asking)  # type: ignore[arg-type]
        await until(lambda: host.snapshot().state == NONE)

    tell(story, resolve, idle_timeout_s=0.1)


def test_an_idle_model_is_unloaded_and_loaded_again() -> None:
    async def story(host: ModelHost) -> None:
        assert await answer(host, "fine") == ANSWER
        pid = host.snapshot().pid or 0
        await until(lambda: host.snapshot().state == NONE)
        assert gone(pid)
        assert await answer(host, "fine") == ANSWER

    tell(story, idle_timeout_s=0.05)


def test_a_busy_model_is_not_idle() -> None:
    async def story(host: ModelHost) -> None:
        stream = await begin(host, "slow")
        for _ in range(20):
            await stream.__anext__()
        assert host.snapshot().state == READY
        await stream.aclose()

    tell(story, idle_timeout_s=0.05)


def test_an_engine_that_does_not_end_when_asked_is_killed() -> None:
    async def story(host: ModelHost) -> None:
        assert await answer(host, "deaf") == ANSWER
        assert await answer(host, "fine") == ANSWER

    tell(story, end_timeout_s=0.2)


def test_a_model_has_one_name_however_it_is_called() -> None:
    async def story(host: ModelHost) -> None:
        with pytest.raises(ModelNotFound):
            await host.name_of(None)
        assert await host.name_of("fin") == "fine"
        assert await answer(host, "fin") == ANSWER
        assert await host.name_of(None) == host.snapshot().model == "fine"

    tell(story, resolve=lambda name: spec_of("fine"))


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_the_line_has_an_end() -> None:
    async def story(host: ModelHost) -> None:
        streams = [await begin(host, "slow") for _ in range(3)]
        with pytest.raises(QueueFull) as full:
            await answer(host, "slow")
        assert (full.value.http_status, full.value.retryable) == (429, True)
        assert full.value.extra["retry_after_s"] >= 1
        await streams[0].aclose()
        streams[0] = await begin(host, "slow")
        for stream in streams:
            await stream.aclose()

    tell(story, max_concurrency=2, max_queue=1)


@pytest.mark.parametrize(
    ("concurrency", "queue", "answers", "seconds"),
    [(2, 6, 0, 4), (4, 4, 0, 2), (8, 0, 0, 1), (1, 69, 0, 60), (2, 6, 40, 1)],
)
def test_who_comes_too_much_is_told_when_those_before_may_be_done(
    concurrency: int, queue: int, answers: int, seconds: int
) -> None:
    """As long as nothing has been answered, an answer takes a second."""

    async def story(host: ModelHost) -> None:
        for _ in range(answers):
            await answer(host, "fine")
        streams = [await begin(host, "slow") for _ in range(concurrency + queue)]
        with pytest.raises(QueueFull) as full:
            await answer(host, "slow")
        assert full.value.extra["retry_after_s"] == host.snapshot().retry_after_s == seconds
        for stream in streams:
            await stream.aclose()

    tell(story, max_concurrency=concurrency, max_queue=queue)


def test_requests_for_a_model_that_is_being_loaded_count() -> None:
    async def story(host: ModelHost) -> None:
        waiting = [asyncio.create_task(answer(host, "late")) for _ in range(2)]
        await until(lambda: host.snapshot().waiting == 2)
        with pytest.raises(QueueFull):
            await answer(host, "late")
        assert await asyncio.gather(*waiting) == [ANSWER] * 2

    tell(story, max_concurrency=1, max_queue=1)


def test_waiting_has_an_end() -> None:
    async def story(host: ModelHost) -> None:
        await host.load("slow")
        stream = await begin(host, "slow")
        with pytest.raises(WaitedTooLong, match="2 s") as late:
            await answer(host, "fine")
        assert late.value.http_status == 503
        assert late.value.extra["retry_after_s"] >= 1
        # Whoever has begun does not wait any more.
        assert isinstance(await stream.__anext__(), Piece)
        await stream.aclose()

    tell(story, queue_timeout_s=2.0)


def test_who_does_not_read_loses_the_answer_and_frees_the_place() -> None:
    async def story(host: ModelHost) -> None:
        stream = await begin(host, "flood")
        await until(lambda: host.snapshot().running == 0)
        with pytest.raises(ReaderTooSlow):
            async for _ in stream:
                pass
        assert await answer(host, "fine") == ANSWER

    tell(story)


@pytest.mark.parametrize("how", ["close", "cancel"])
def test_who_goes_away_frees_the_place_at_once(how: str) -> None:
    async def story(host: ModelHost) -> None:
        if how == "close":
            await (await begin(host, "slow")).aclose()
        else:
            task = asyncio.create_task(answer(host, "slow"))
            await until(lambda: host.snapshot().running == 1)
            task.cancel()
            await asyncio.wait([task])
        assert host.snapshot().running == 0
        await until(lambda: _engine_is_free(host))
        assert host.snapshot().restarts == 0

    tell(story)


def _engine_is_free(host: ModelHost) -> bool:
    status = host.snapshot().status
    return status is not None and status.running == 0


# --- the end ----------------------------------------------------------------------------------------------------------


def test_stopping_cuts_what_does_not_end_and_refuses_the_rest() -> None:
    async def story(host: ModelHost) -> None:
        running = asyncio.create_task(answer(host, "slow"))
        await until(lambda: host.snapshot().running == 1)
        waiting = asyncio.create_task(answer(host, "fine"))
        await until(lambda: host.snapshot().waiting == 1)
        began = time.monotonic()
        stopping = asyncio.create_task(host.stop(0.5))
        with pytest.raises(ServerStopping):
            await waiting
        with pytest.raises(ServerStopping):
            await answer(host, "slow")
        assert not running.done()
        with pytest.raises(ServerStopping):
            await running
        await stopping
        assert time.monotonic() - began < 5
        assert host.snapshot().state == "stopping"

    tell(story)


def test_stopping_lets_answers_end() -> None:
    async def story(host: ModelHost) -> None:
        await host.load("flood")
        running = asyncio.create_task(answer(host, "flood"))
        await until(lambda: host.snapshot().running == 1)
        await host.stop(20)
        assert (await running).endswith(ANSWER)

    tell(story)


def test_stopping_while_a_model_is_loaded_leaves_nothing() -> None:
    async def story(host: ModelHost) -> None:
        loading = asyncio.create_task(host.load("never"))
        await until(lambda: host.snapshot().pid is not None)
        await host.stop(0.5)
        with pytest.raises(ServerStopping):
            await loading

    tell(story)


def test_stopping_between_two_engines_starts_no_other() -> None:
    async def story(host: ModelHost) -> None:
        with pytest.raises(EngineLost):
            await answer(host, "crash-1")
        assert host.snapshot().state == RESTARTING
        await host.stop()
        assert host.snapshot().pid is None

    tell(story, first_delay_s=5.0)


# --- and otherwise ----------------------------------------------------------------------------------------------------


def test_what_an_engine_prints_is_logged_and_nothing_else(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    async def story(host: ModelHost) -> None:
        assert await answer(host, "chatty") == ANSWER
        await until(lambda: any("a line that an engine prints" in line.getMessage() for line in caplog.records))

    with caplog.at_level(logging.WARNING, "mlxk2.server.engine"):
        tell(story)
    assert capfd.readouterr().out == ""


def test_an_idle_host_costs_nothing() -> None:
    async def story(host: ModelHost) -> None:
        assert await answer(host, "fine") == ANSWER
        before, end = time.process_time(), time.monotonic() + 1
        while time.monotonic() < end:
            await asyncio.sleep(end - time.monotonic())
        assert time.process_time() - before < 0.01

    tell(story)


def test_a_name_is_looked_up_once_for_requests_in_quick_succession() -> None:
    asked: list[str] = []

    def resolve(name: str) -> EngineSpec:
        asked.append(name)
        return spec_of(name)

    async def story(host: ModelHost) -> None:
        for _ in range(5):
            await answer(host, "fine")
        assert len(asked) < 5

    tell(story, resolve)


def test_a_name_is_looked_up_once_for_requests_at_the_same_time() -> None:
    asked: list[str] = []
    everybody_is_here = threading.Event()

    def resolve(name: str) -> EngineSpec:
        asked.append(name)
        everybody_is_here.wait(PATIENCE_S)
        if name == "unknown":
            raise ModelNotFound("no such model")
        return spec_of(name)

    async def story(host: ModelHost) -> None:
        answers = [asyncio.create_task(answer(host, "fine")) for _ in range(20)]
        refused = [asyncio.create_task(_problem_of(answer(host, "unknown"))) for _ in range(20)]
        await until(lambda: host.snapshot().waiting == 40)
        answers.pop(0).cancel()
        everybody_is_here.set()
        assert set(await asyncio.gather(*answers)) == {ANSWER}
        assert len({id(error) for error in await asyncio.gather(*refused)}) == 20
        assert sorted(asked) == ["fine", "unknown"]

    tell(story, resolve)


def test_the_engine_is_injected_as_a_callable() -> None:
    """`partial` is all that it takes to try the host with another engine."""

    async def story() -> None:
        host = ModelHost(spec_of, HostSettings(), start_engine=partial(EngineProcess, target=fake_engine.TARGET))
        await host.start()
        await host.start()
        assert await answer(host, "fine") == ANSWER
        await host.stop()
        await host.stop()

    asyncio.run(asyncio.wait_for(story(), PATIENCE_S))
