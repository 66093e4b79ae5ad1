"""Ctrl-C, Ctrl-D, signals and a terminal that goes away: real keys to a real process on a pseudo-terminal."""

from __future__ import annotations

import os
import re
import signal

import pytest
from support.processes import gone, wait_until
from support.terminal import CTRL_C, CTRL_D, ENTER, Terminal, environment
from support.tiny_model import TinyOptions, scripted_model

INTERRUPTED = "[Generation interrupted by user]"
# The editor moves the cursor behind it instead of writing a blank.
PROMPT = ">>>"
# No prompt ends in one of these, and no two follow each other in a question.
ENDLESS = ["one ", "two ", "three ", "four\n"]

# With line editing, and as a terminal that cannot move its cursor has it.
KINDS = {"edited": "xterm-256color", "plain": "dumb"}


@pytest.fixture
def endless(tmp_path):
    options = TinyOptions(context_length=1_000_000)
    return scripted_model(tmp_path / "endless", pieces=ENDLESS, repeat=True, options=options)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def chat(endless, isolated_cache, kind):
    """A chat that is waiting for the first question."""
    env = environment(isolated_cache.env, TERM=KINDS[kind])
    with Terminal("run", str(endless), "--max-tokens", "900000", env=env) as terminal:
        terminal.until(PROMPT)
        yield terminal


def ended(terminal, code=0):
    assert terminal.wait() == code
    assert terminal.is_as_before
    assert "Traceback" not in terminal.text


# --- while it answers -------------------------------------------------------------------------------------------


def begin_an_answer(chat):
    chat.type("go on", ENTER)
    chat.until("one two three four\none ")


def test_ctrl_c_ends_the_answer_and_the_next_one_starts_afresh(chat):
    for _ in range(3):
        begin_an_answer(chat)
        chat.type(CTRL_C)
        chat.until(f"\n{INTERRUPTED}\n")
        chat.until(PROMPT)
    chat.type(CTRL_D)
    ended(chat)


def test_a_signal_is_as_good_as_the_key(chat):
    begin_an_answer(chat)
    chat.signal(signal.SIGINT)
    chat.until(f"\n{INTERRUPTED}\n")
    chat.until(PROMPT)
    chat.type("/show history", ENTER)
    chat.until("one two three four\n")
    chat.type("/bye", ENTER)
    ended(chat)


def test_what_was_read_before_an_interrupt_is_not_read_again(chat):
    begin_an_answer(chat)
    chat.type(CTRL_C)
    chat.until(INTERRUPTED)
    chat.until(PROMPT)
    chat.type("/stats", ENTER)
    (used,) = re.findall(r"context (\d+) of", chat.until("tokens said"))
    chat.type("and then?", ENTER)
    chat.until("one two")
    chat.type(CTRL_C)
    chat.until(INTERRUPTED)
    chat.until(PROMPT)
    chat.type("/stats", ENTER)
    read, kept = map(int, re.findall(r"(\d+) tokens read, (\d+) kept", chat.until("tokens said"))[0])
    # The question, and the template around it; pieces of the script are read as other tokens than they were said.
    assert kept > 10 and kept + read > int(used)


def test_ctrl_c_that_is_held_down_ends_the_answer_and_then_the_chat(chat):
    begin_an_answer(chat)
    chat.hold_down(CTRL_C)
    ended(chat)
    assert chat.text.count(INTERRUPTED) <= 1


def test_sigterm_while_it_answers_ends_the_process(chat):
    begin_an_answer(chat)
    chat.signal(signal.SIGTERM)
    ended(chat, 130)


def test_sighup_while_it_answers_ends_the_process(chat):
    begin_an_answer(chat)
    chat.signal(signal.SIGHUP)
    ended(chat, 130)


# --- at the prompt ----------------------------------------------------------------------------------------------


def press_and_wait(chat):
    chat.type(CTRL_C)
    chat.until("(Ctrl-C once more, or Ctrl-D, ends the chat)\n")
    chat.until(PROMPT)


def test_ctrl_c_at_the_prompt_clears_the_line(chat):
    chat.type("/bye")
    chat.until("/bye")
    press_and_wait(chat)
    chat.type("/set seed 5", ENTER)
    chat.until("seed 5\n")
    chat.until(PROMPT)
    chat.type(CTRL_D)
    ended(chat)
    assert "one " not in chat.text


def test_ctrl_c_twice_leaves(chat):
    press_and_wait(chat)
    chat.type(CTRL_C)
    ended(chat)


def test_signals_at_the_prompt_are_keys(chat):
    chat.signal(signal.SIGINT)
    chat.until("(Ctrl-C once more")
    chat.until(PROMPT)
    chat.signal(signal.SIGINT)
    ended(chat)


def test_a_line_between_two_presses_begins_to_count_anew(chat):
    press_and_wait(chat)
    chat.type("/clear", ENTER)
    chat.until("0 turns forgotten\n")
    chat.until(PROMPT)
    press_and_wait(chat)
    chat.type(CTRL_C)
    ended(chat)


def test_ctrl_c_leaves_an_open_block(chat):
    chat.type('"""', ENTER, "many", ENTER)
    chat.until("many")
    chat.until("...")
    press_and_wait(chat)
    chat.type("q", ENTER)
    ended(chat)


def test_an_interrupted_answer_does_not_count_as_the_first_press(chat):
    begin_an_answer(chat)
    chat.type(CTRL_C)
    chat.until(INTERRUPTED)
    chat.until(PROMPT)
    press_and_wait(chat)
    chat.type(CTRL_D)
    ended(chat)


def test_ctrl_d_ends_the_chat(chat):
    chat.type(CTRL_D)
    ended(chat)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_end_ends_it_at_the_prompt(chat, number):
    chat.signal(number)
    ended(chat, 130)


def test_many_signals_at_once_leave_the_terminal_as_it_was(chat):
    chat.signal(signal.SIGSTOP)
    chat.signal(signal.SIGTERM)
    chat.signal(signal.SIGINT)
    chat.signal(signal.SIGHUP)
    chat.signal(signal.SIGCONT)
    assert chat.wait() in (0, 130)
    assert chat.is_as_before


# --- a terminal that goes away ----------------------------------------------------------------------------------


@pytest.fixture(params=["at the prompt", "while it answers"])
def moment(request):
    return request.param


def gone_quietly(terminal, log):
    pid = terminal.process.pid
    terminal.wait_without_terminal()
    wait_until(lambda: gone(pid), "the process has gone")
    # The session was its own: whoever is left in it is an orphan.
    with pytest.raises(ProcessLookupError):
        os.killpg(pid, 0)
    assert log.read_text(encoding="utf-8") == ""


def test_a_closed_terminal_ends_it_without_a_word(endless, isolated_cache, tmp_path, kind, moment):
    env, log = environment(isolated_cache.env, TERM=KINDS[kind]), tmp_path / "stderr"
    with Terminal("run", str(endless), "--max-tokens", "900000", "--quiet", env=env, stderr=log) as terminal:
        terminal.until(PROMPT)
        if moment == "while it answers":
            begin_an_answer(terminal)
        terminal.take_away()
        gone_quietly(terminal, log)


def test_a_closed_terminal_ends_it_where_hang_ups_are_ignored(endless, isolated_cache, tmp_path, kind, moment):
    """As under nohup: nobody tells the process, but it has nobody left to talk to."""
    env, log = environment(isolated_cache.env, TERM=KINDS[kind]), tmp_path / "stderr"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        terminal = Terminal("run", str(endless), "--max-tokens", "900000", env=env, stderr=log)
    finally:
        signal.signal(signal.SIGHUP, before)
    with terminal:
        terminal.until(PROMPT)
        if moment == "while it answers":
            begin_an_answer(terminal)
        terminal.take_away()
        terminal.wait_without_terminal()
        assert "Traceback" not in log.read_text(encoding="utf-8")


# --- a single answer --------------------------------------------------------------------------------------------


def test_a_single_answer_keeps_what_was_said_and_exits_with_130(endless, isolated_cache, tmp_path):
    out = tmp_path / "answer"
    env = environment(isolated_cache.env)
    with Terminal("run", str(endless), "go on", "--max-tokens", "900000", env=env, stdout=out) as terminal:
        wait_until(lambda: "four\n" in out.read_text(encoding="utf-8"), "something was said")
        terminal.type(CTRL_C)
        ended(terminal, 130)
    assert INTERRUPTED in terminal.text
    assert out.read_text(encoding="utf-8").startswith("one two three four\n")
    assert INTERRUPTED not in out.read_text(encoding="utf-8")


def test_a_single_answer_on_the_terminal_too(endless, isolated_cache):
    with Terminal("run", str(endless), "go on", env=environment(isolated_cache.env)) as terminal:
        terminal.until("one two three four\n")
        terminal.type(CTRL_C)
        terminal.until(f"{INTERRUPTED}\n")
        ended(terminal, 130)
