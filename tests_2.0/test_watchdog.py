"""Work in a watched process: its events and its result arrive, and whatever it does, the watcher comes back in time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support import watched_work as work
from support.processes import gone, wait_until

from mlxk2.driving import drain
from mlxk2.errors import GenerationFailed, InsufficientMemory, InternalError, PeerLost
from mlxk2.events import Delta, Event
from mlxk2.runner.watchdog import watched

HERE = Path(__file__).parent


def run(steps: Generator[Event, None, Any]) -> tuple[list[str], Any]:
    said: list[str] = []
    return said, drain(steps, lambda event: said.append(event.text) if isinstance(event, Delta) else None)


def test_events_and_result_arrive_in_order() -> None:
    words = tuple(map(str, range(300)))
    said, result = run(watched(partial(work.say, words)))
    assert (tuple(said), result) == (words, "299")


@pytest.mark.parametrize("holding_the_lock", [True, False], ids=["lock-held", "lock-free"])
def test_silence_ends_the_work(tmp_path: Path, holding_the_lock: bool) -> None:
    start = time.monotonic()
    with pytest.raises(PeerLost, match=r"for 0.5 s while waiting") as lost:
        run(watched(partial(work.hang, 0.5, holding_the_lock, tmp_path / "pid")))
    assert time.monotonic() - start < 20
    assert lost.value.retryable
    assert gone(int((tmp_path / "pid").read_text()))


def test_signs_of_life_are_enough() -> None:
    said, result = run(watched(partial(work.beat_slowly, 3.0)))
    assert (said, result) == (["done"], "done")


def test_an_error_arrives_whole() -> None:
    with pytest.raises(InsufficientMemory) as refused:
        run(watched(work.refuse))
    assert (refused.value.message, refused.value.hint) == ("too big", "buy another")
    assert refused.value.extra == {"required_bytes": 7}


def test_a_bug_is_told() -> None:
    with pytest.raises(InternalError, match="ZeroDivisionError: a bug"):
        run(watched(work.stumble))


def test_a_process_that_dies_is_no_silence() -> None:
    start = time.monotonic()
    with pytest.raises(GenerationFailed, match=r"\(signal 6\)"):
        run(watched(work.die))
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("quiet", [True, False])
def test_what_it_prints_is_seen_only_if_wanted(quiet: bool, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(watched(work.shout, quiet=quiet)) == ([], "said")
    out, err = capfd.readouterr()
    assert (out, err) == (("", "") if quiet else ("noise on 1\n", "noise on 2\n"))


def test_ctrl_c_reaches_the_work() -> None:
    said: list[str] = []

    def press_once(event: Event) -> None:
        assert isinstance(event, Delta)
        said.append(event.text)
        if said == ["."] * 3:
            raise KeyboardInterrupt

    assert drain(watched(work.wait_for_ctrl_c), press_once) == "interrupted"
    assert said[-1] == "!"


def test_ctrl_c_ends_work_that_cannot_listen(tmp_path: Path) -> None:
    def press(event: Event) -> None:
        if event == Delta("answer", "now"):
            raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        drain(watched(partial(work.hang, 60, True, tmp_path / "pid")), press)
    assert time.monotonic() - start < 20
    assert gone(int((tmp_path / "pid").read_text()))


def test_leaving_early_ends_the_work(tmp_path: Path) -> None:
    steps = watched(partial(work.hang, 60, True, tmp_path / "pid"))
    assert next(steps) == Delta("answer", "before")
    wait_until((tmp_path / "pid").exists, "the work has begun")
    steps.close()
    assert gone(int((tmp_path / "pid").read_text()))


def test_nothing_is_left_when_the_watcher_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys; from functools import partial; from pathlib import Path\n"
        "from support import watched_work as work\n"
        "from mlxk2.runner.watchdog import watched\n"
        "for event in watched(partial(work.hang, 60, False, Path(sys.argv[1]))): pass\n"
    )
    note = tmp_path / "pid"
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)])}
    watcher = subprocess.Popen([sys.executable, "-c", script, str(note)], env=environ)
    try:
        wait_until(note.exists, "the work has begun")
    finally:
        watcher.send_signal(signal.SIGKILL)
        watcher.wait()
    wait_until(lambda: gone(int(note.read_text())), "the work has ended with its watcher")
