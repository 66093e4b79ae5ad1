"""Typing in a chat on a real terminal: lines are edited, completed and recalled, and what is typed is kept privately."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from support.isolation import above_permissions
from support.processes import wait_until
from support.terminal import CTRL_C, CTRL_D, ENTER, ESCAPE, PASTE, PASTE_END, TAB, UP, Terminal, environment
from support.tiny_model import TinyOptions, scripted_model

from mlxk2.cli.chat.history import HistoryFile

PROMPT = ">>>"
TEXT = "The capital of France is Paris."


@pytest.fixture
def model(tmp_path):
    return scripted_model(tmp_path / "oracle", TEXT, TinyOptions(context_length=4000))


@pytest.fixture
def env(isolated_cache):
    return environment(isolated_cache.env, NO_COLOR="1")


@pytest.fixture
def open_chat(model, env):
    """Begin a chat and wait for its prompt."""

    def begin(*flags, **more):
        terminal = Terminal("run", str(model), *flags, env={**env, **more})
        terminal.until(PROMPT)
        return terminal

    return begin


def answered(terminal):
    terminal.until(TEXT + "\n")
    terminal.until(PROMPT)


def history_of(env):
    """The file with what was typed."""
    return HistoryFile(Path(env["XDG_STATE_HOME"]) / "mlxk2" / "chat_history").entries


def sent(terminal, text):
    """Whether the chat shows `text` as the question of its only turn."""
    terminal.type("/show history", ENTER)
    terminal.until(f"{PROMPT} {text}\n{TEXT}\n")
    terminal.until(PROMPT)
    terminal.type(CTRL_D)
    return terminal.wait() == 0 and terminal.is_as_before


# --- keys -------------------------------------------------------------------------------------------------------


def test_a_line_can_be_edited_before_it_is_sent(open_chat):
    with open_chat() as chat:
        chat.type("hellp there", "\x1b[D" * 6, "\x7f", "o", ENTER)
        answered(chat)
        assert sent(chat, "hello there")


def test_alt_enter_begins_a_new_line(open_chat):
    with open_chat() as chat:
        chat.type("one", ESCAPE + ENTER, "two", ENTER)
        answered(chat)
        assert sent(chat, "one\ntwo")


def test_pasted_lines_stay_together_and_wait_for_enter(open_chat):
    with open_chat() as chat:
        chat.type(PASTE, "def f():\r\n    return 1\r\n", PASTE_END)
        chat.until("return 1")
        chat.type("# why?", ENTER)
        answered(chat)
        assert sent(chat, "def f():\n    return 1\n# why?")


def test_a_block_is_edited_as_one_message(open_chat):
    with open_chat() as chat:
        chat.type('"""', ENTER, "one", ENTER, ENTER, "twx", "\x7f", "o", ENTER, '"""', ENTER)
        answered(chat)
        assert sent(chat, "one\n\ntwo")


@pytest.mark.parametrize(
    ("typed", "offered", "rest", "answer"),
    [
        ("/sys", "set the system message", "Be kind.", "system message set\n"),
        ("/set keep", "keep_context", " rotate", "keep_context rotate\n"),
        ("/show his", "history", "", "nothing was said yet\n"),
    ],
)
def test_tab_completes_commands_and_what_they_take(open_chat, typed, offered, rest, answer):
    with open_chat() as chat:
        chat.type(typed)
        chat.until(offered)
        chat.type(TAB, rest, ENTER)
        chat.until(answer)


def test_tab_completes_file_names(open_chat, tmp_path):
    (tmp_path / "saved chats").mkdir()
    with open_chat() as chat:
        chat.type(f"/save {tmp_path}/sav")
        chat.until("saved chats")
        chat.type(TAB, "/first", ENTER)
        chat.until("saved to")
    assert json.loads((tmp_path / "saved chats" / "first").read_text(encoding="utf-8"))["messages"] == []


def test_a_slash_shows_the_commands_and_what_they_do(open_chat):
    with open_chat() as chat:
        chat.type("/")
        for shown in ("/help", "list the commands and keys", "/set", "/retry"):
            chat.until(shown)


def test_bytes_that_are_no_text_do_no_harm(open_chat):
    with open_chat() as chat:
        os.write(chat._master, b"caf\xe9 \xff" + ENTER.encode())
        answered(chat)
        assert sent(chat, "caf\ufffd \ufffd")


def test_what_is_typed_during_an_answer_is_not_shown_in_it_and_waits_for_its_end(tmp_path, env):
    options = TinyOptions(context_length=100_000)
    long = scripted_model(tmp_path / "long", pieces=["one ", "two "], repeat=True, options=options)
    with Terminal("run", str(long), "--max-tokens", "1000", env=env) as chat:
        chat.until(PROMPT)
        chat.type("go on", ENTER)
        chat.until("one two ")
        chat.type("/set seed 55", "\x7f", ENTER, "/sho", "\x7f" * 4)
        rest = chat.until(f"\n\n{PROMPT}")
        assert rest == "one two " * 499 + f"\n\n{PROMPT}"
        chat.until("seed 5\n")
        chat.until(PROMPT)
        chat.type(CTRL_D)
        assert chat.wait() == 0


def test_keys_stay_hidden_when_a_stopped_answer_goes_on(tmp_path, env):
    endless = scripted_model(
        tmp_path / "endless", pieces=["one ", "two "], repeat=True, options=TinyOptions(context_length=1_000_000)
    )
    with Terminal("run", str(endless), "--max-tokens", "900000", env=env) as chat:
        chat.until(PROMPT)
        chat.type("go on", ENTER)
        chat.until("one two ")
        assert not chat.echoes
        chat.signal(signal.SIGSTOP)
        chat.set_as_before()
        chat.signal(signal.SIGCONT)
        wait_until(lambda: not chat.echoes, "the echo is off again")
        chat.type(CTRL_C)
        chat.until("[Generation interrupted by user]")
        chat.until(PROMPT)
        chat.type(CTRL_D)
        assert chat.wait() == 0 and chat.is_as_before


def test_keys_stay_hidden_when_a_shell_shows_them_after_the_answer_went_on(tmp_path, env):
    """As after `bg` and `fg`: no signal tells of the second."""
    endless = scripted_model(
        tmp_path / "endless", pieces=["one ", "two "], repeat=True, options=TinyOptions(context_length=1_000_000)
    )
    with Terminal("run", str(endless), "--max-tokens", "900000", env=env) as chat:
        chat.until(PROMPT)
        chat.type("go on", ENTER)
        chat.until("one two ")
        chat.set_as_before()
        wait_until(lambda: not chat.echoes, "the echo is off again")
        chat.type(CTRL_C)
        assert "^C" not in chat.until("[Generation interrupted by user]")
        chat.until(PROMPT)
        chat.type(CTRL_D)
        assert chat.wait() == 0 and chat.is_as_before


def shown_lines(raw: bytes) -> list[str]:
    """What was drawn over and over in one line."""
    return re.findall(r"\r\x1b\[K([█░ ]*\d+ of \d+ tokens)", raw.decode("utf-8", "replace"))


def test_progress_of_a_long_prompt_fits_the_terminal_and_is_taken_away(tmp_path, env):
    options = TinyOptions(context_length=100_000)
    model = scripted_model(tmp_path / "reader", TEXT, options)
    path = tmp_path / "long.json"
    # Long enough for half a second of reading on a fast machine.
    turn = [{"role": "user", "content": "word " * 16_000}, {"role": "assistant", "content": "yes"}]
    content = {"format": "mlxk2-chat", "version": 1, "model": str(model), "messages": turn}
    path.write_text(json.dumps(content), encoding="utf-8")
    with Terminal("run", str(model), "--max-tokens", "20", env=env, columns=46) as chat:
        chat.until(PROMPT)
        chat.type(f"/load {path}", ENTER)
        chat.until("settings")
        chat.until(PROMPT)
        chat.type("hello", ENTER)
        chat.until("The capital")
        raw = chat._raw
        lines = shown_lines(raw)
        assert lines and max(map(len, lines)) < 46
        assert raw.rindex(b"\r\x1b[K") > raw.rindex(b" tokens") - 1
        chat.until(PROMPT)
        chat.type(CTRL_D)
        assert chat.wait() == 0


def test_line_editing_is_left_to_a_terminal_that_cannot_move(open_chat, env):
    with open_chat(TERM="dumb") as chat:
        chat.type("hello\n")
        chat.until(TEXT)
        chat.type("/bye\n")
        assert chat.wait() == 0
        assert "\x1b" not in chat._raw.decode()
    assert not os.path.exists(env["XDG_STATE_HOME"])


def test_colours_of_no_color(open_chat, model, isolated_cache):
    with open_chat("--verbose") as chat:
        chat.type("hello", ENTER)
        chat.until("tokens/s")
        assert "\x1b[2m" not in chat._raw.decode()
    with Terminal("run", str(model), "--verbose", env=environment(isolated_cache.env)) as chat:
        chat.until(PROMPT)
        chat.type("hello", ENTER)
        chat.until("tokens/s")
        assert "\x1b[2m" in chat._raw.decode()


# --- history ----------------------------------------------------------------------------------------------------


def test_what_was_typed_is_recalled_in_the_next_chat(open_chat, env):
    with open_chat() as chat:
        chat.type("my question", ESCAPE + ENTER, "of two lines", ENTER)
        answered(chat)
        chat.type("/bye", ENTER)
        assert chat.wait() == 0
    assert history_of(env) == ("my question\nof two lines", "/bye")
    with open_chat() as chat:
        chat.type(UP, UP, UP, ENTER)
        answered(chat)
        assert sent(chat, "my question\nof two lines")


def test_the_history_is_the_users_alone(open_chat, env):
    with open_chat() as chat:
        chat.type("/bye", ENTER)
        chat.wait()
    folder = os.path.join(env["XDG_STATE_HOME"], "mlxk2")
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(os.path.join(folder, "chat_history")).st_mode) == 0o600


def test_no_history_keeps_and_reads_nothing(open_chat, env):
    with open_chat("--no-history") as chat:
        chat.type("secret", ENTER)
        answered(chat)
        chat.type(CTRL_D)
        chat.wait()
    assert not os.path.exists(env["XDG_STATE_HOME"])


def test_the_state_folder_is_below_home_unless_told_otherwise(model, isolated_cache):
    for told in ({}, {"XDG_STATE_HOME": "relative/does/not/count"}):
        env = {"XDG_STATE_HOME": "", **isolated_cache.env, **told}
        with Terminal("run", str(model), env=env) as chat:
            chat.until(PROMPT)
            chat.type("/bye", ENTER)
            chat.wait()
    file = isolated_cache.root / "home" / ".local" / "state" / "mlxk2" / "chat_history"
    assert HistoryFile(file).entries == ("/bye", "/bye")


def test_a_history_that_cannot_be_kept_is_a_note_and_no_failure(open_chat, tmp_path):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with open_chat(XDG_STATE_HOME=str(tmp_path / "file")) as chat:
        assert "what you type is not kept for the next chat: Not a directory" in chat.text
        chat.type("hello", ENTER)
        answered(chat)
        chat.type(CTRL_D)
        assert chat.wait() == 0


def test_entries_of_all_kinds_are_read_back(tmp_path):
    texts = ["a", "two\nlines", "\ttab 🦊 \u2028 \x00", '"quoted" \\ back']
    history = HistoryFile(tmp_path / "deep" / "er" / "history")
    for text in [*texts, "", "  \n", "x" * 100_000]:
        history.add(text)
    assert HistoryFile(tmp_path / "deep" / "er" / "history").entries == tuple(texts)


def test_damaged_lines_are_left_out(tmp_path):
    path = tmp_path / "history"
    path.write_bytes(b'"good"\n{"no": 1}\n"half\n\xff\xfe\n[[[[\n42\n' + b"[" * 50_000 + b'\n"too"\n')
    assert HistoryFile(path).entries == ("good", "too")


def test_a_history_that_others_could_read_is_closed_to_them(tmp_path):
    path = tmp_path / "history"
    path.write_text('"a"\n', encoding="utf-8")
    path.chmod(0o644)
    assert HistoryFile(path).entries == ("a",)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_long_history_is_cut_back_to_its_latest_entries(tmp_path):
    path = tmp_path / "history"
    path.write_text("".join(json.dumps(f"{number} " + "x" * 500) + "\n" for number in range(4000)), encoding="utf-8")
    entries = HistoryFile(path).entries
    assert len(entries) == 1000 and entries[-1].startswith("3999 ")
    assert path.stat().st_size < 2**20 // 2
    assert HistoryFile(path).entries == entries[-500:]
    assert [file.name for file in tmp_path.iterdir()] == ["history"]


def test_two_chats_keep_what_both_were_told(tmp_path):
    one, other = HistoryFile(tmp_path / "history"), HistoryFile(tmp_path / "history")
    one.add("a")
    other.add("b")
    one.add("c")
    assert HistoryFile(tmp_path / "history").entries == ("a", "b", "c")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_what_is_no_file_is_no_history(tmp_path, make):
    make(tmp_path / "history")
    with pytest.raises(OSError):
        HistoryFile(tmp_path / "history")


@pytest.mark.skipif(above_permissions(), reason="this user may write everywhere")
def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OSError):
        HistoryFile(tmp_path / "history")


def test_a_disk_that_fills_up_later_costs_the_entry_only(tmp_path):
    history = HistoryFile(tmp_path / "history")
    (tmp_path / "history").unlink()
    (tmp_path / "history").mkdir()
    history.add("lost")
    assert history.entries == ()


# --- what it costs ----------------------------------------------------------------------------------------------

_PROGRAM = """
import sys
from mlxk2.cli import main
code = main(["run", sys.argv[1], "hi"])
sys.exit(code or "prompt_toolkit" in sys.modules or "asyncio" in sys.modules)
"""


def test_a_single_answer_does_not_load_the_line_editor(model, env):
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(model)],
        env={**os.environ, **env},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_without_prompt_toolkit_lines_are_read_as_the_terminal_gives_them(model, env, tmp_path):
    (tmp_path / "hidden").mkdir()
    hiding = "import sys; sys.modules['prompt_toolkit'] = None"
    (tmp_path / "hidden" / "sitecustomize.py").write_text(hiding, encoding="utf-8")
    path = os.pathsep.join([str(tmp_path / "hidden"), os.environ.get("PYTHONPATH", "")])
    with Terminal("run", str(model), env={**env, "PYTHONPATH": path}) as chat:
        chat.until(PROMPT)
        chat.type("hello\n")
        chat.until(TEXT)
        chat.type("/bye\n")
        assert chat.wait() == 0
        wait_until(lambda: chat.is_as_before, "the terminal is as it was")
