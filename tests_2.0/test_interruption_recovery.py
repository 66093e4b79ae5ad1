"""Ctrl-C ends one answer and nothing else: what was said is kept, and the next generation starts afresh."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from conftest_runner import chat, drain
from support.call import checked
from support.tiny_model import TinyOptions, scripted_model

from mlxk2.events import Delta, Finished
from mlxk2.operations.run import RunOptions, prepare, run_model
from mlxk2.runner.request import Sampling
from mlxk2.store.model_ref import WORKSPACE, ModelRef

PIECES = ["one ", "two ", "three ", "four"]


def interrupt_after(steps, count):
    """Take `count` deltas, then press Ctrl-C; return the rest of the events and what the generator returned."""
    said = []
    while len(said) < count:
        event = next(steps)
        if isinstance(event, Delta):
            said.append(event.text)
    rest = [steps.throw(KeyboardInterrupt())]
    try:
        while True:
            rest.append(next(steps))
    except StopIteration as end:
        return "".join(said), rest, end.value


def test_an_interrupt_of_the_consumer_ends_the_answer_with_what_was_said(scripted, runner_of):
    said, rest, answer = interrupt_after(runner_of(scripted(pieces=PIECES)).generate(chat()), 2)
    assert said == answer.text == "one two "
    assert [type(event) for event in rest] == [Finished]
    assert rest[0].reason == answer.finish_reason == "interrupted"
    assert answer.usage.completion_tokens == 2


def test_text_that_was_held_back_is_not_lost_by_an_interrupt(scripted, runner_of):
    runner = runner_of(scripted(pieces=["yes ", "no"], repeat=True))
    said, rest, answer = interrupt_after(runner.generate(chat(stop=("s no!",))), 1)
    assert said == "ye"
    assert [event.text for event in rest if isinstance(event, Delta)] == ["s "]
    assert answer.text == "yes "


def test_the_next_generation_starts_afresh(scripted, runner_of):
    runner = runner_of(scripted(pieces=PIECES))
    interrupt_after(runner.generate(chat()), 3)
    again = drain(runner.generate(chat()))
    assert (again.answer.text, again.finished.reason) == ("".join(PIECES), "stop")


def test_a_generation_that_is_left_lying_does_not_disturb_the_next(scripted, runner_of):
    runner = runner_of(scripted(pieces=PIECES))
    left = runner.generate(chat())
    assert [next(left), next(left)]
    assert drain(runner.generate(chat())).answer.text == "".join(PIECES)
    left.close()
    assert drain(runner.generate(chat())).answer.text == "".join(PIECES)


def test_an_interrupt_before_the_first_token_is_an_empty_answer(scripted, runner_of):
    steps = runner_of(scripted(pieces=PIECES)).generate(chat())
    next(steps)
    finished = steps.throw(KeyboardInterrupt())
    assert (finished.reason, finished.usage.completion_tokens) == ("interrupted", 0)
    assert finished.timing.time_to_first_token_s is None


def test_the_operation_returns_the_partial_result(tmp_path):
    path = scripted_model(tmp_path / "m", pieces=PIECES)
    ref = ModelRef("./m", path, None, WORKSPACE)
    plan = prepare(ref, RunOptions("hi", None, Sampling(temperature=0)))
    said, rest, result = interrupt_after(run_model(plan), 2)
    assert (result.response, result.finish_reason, result.tokens_generated) == (said, "interrupted", 2)
    assert isinstance(rest[-1], Finished)


def plan_of(tmp_path):
    path = scripted_model(tmp_path / "m", pieces=PIECES)
    return prepare(ModelRef("./m", path, None, WORKSPACE), RunOptions("hi", None, Sampling(temperature=0)))


def test_an_interrupt_after_the_last_token_loses_nothing(tmp_path):
    steps = run_model(plan_of(tmp_path))
    while not isinstance(next(steps), Finished):
        pass
    with pytest.raises(StopIteration) as end:
        steps.throw(KeyboardInterrupt())
    assert (end.value.value.response, end.value.value.finish_reason) == ("".join(PIECES), "stop")


def test_an_interrupt_while_the_model_is_put_away_loses_nothing(tmp_path, monkeypatch):
    steps = run_model(plan_of(tmp_path))
    while not isinstance(next(steps), Finished):
        pass

    def press(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("gc.collect", press)
    with pytest.raises(StopIteration) as end:
        next(steps)
    monkeypatch.undo()
    assert (end.value.value.response, end.value.value.finish_reason) == ("".join(PIECES), "stop")


# Presses Ctrl-C once the main thread has been seen with more text for a while: with --json nothing tells from outside.
CHILD = """
import os, signal, sys, threading
from mlxk2.cli import main

def press(main_thread, never):
    first, seen = None, 0
    while seen < 200:
        never.wait(0.001)
        frame = sys._current_frames()[main_thread]
        while frame is not None and frame.f_code.co_name != "drain":
            frame = frame.f_back
        event = frame and frame.f_locals.get("event")
        if type(event).__name__ == "Delta":
            first = first or event
            seen += event is not first
    os.kill(os.getpid(), int(os.environ["PRESSED"]))

threading.Thread(target=press, args=(threading.main_thread().ident, threading.Event()), daemon=True).start()
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("pressed", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("flags", [[], ["--no-stream"], ["--json"]])
def test_a_real_signal_ends_the_process_with_130_keeps_the_text_and_is_named(tmp_path, isolated_cache, flags, pressed):
    options = TinyOptions(context_length=2_000_000)
    path = scripted_model(tmp_path / "m", pieces=["again ", "and "], repeat=True, options=options)
    command = [sys.executable, "-c", CHILD, "run", str(path), "hi", *flags]
    environment = {**os.environ, **isolated_cache.env, "PRESSED": str(int(pressed))}
    done = subprocess.run(command, env=environment, text=True, capture_output=True, timeout=120, check=False)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    if "--json" in flags:
        answer = checked(done.stdout, done.returncode)
        assert answer["error"]["type"] == "interrupted"
        who = "interrupted" if pressed == signal.SIGINT else f"ended by {pressed.name}"
        assert answer["error"]["message"] == f"the generation was {who}"
        assert answer["data"]["finish_reason"] == "interrupted"
        assert answer["data"]["response"].startswith("again and")
    else:
        who = "interrupted by user" if pressed == signal.SIGINT else f"ended by {pressed.name}"
        assert f"[Generation {who}]" in done.stderr
        assert done.stdout.startswith("again and")
