"""`mlxk2 run MODEL` on a terminal, line by line: answers, every slash command, blocks, notes, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest_chat import Talk
from support.call import Stream, call
from support.tiny_model import TinyOptions, scripted_model

from mlxk2.cli import main
from mlxk2.cli.chat.commands import COMMANDS
from mlxk2.cli.io import Io

TEXT = "The capital of France is Paris. 🦊"
THINKER = TinyOptions(chat_template="{% for m in messages %}{{ m.content }}\n{% endfor %}<think>\n")


@pytest.fixture
def model(tmp_path):
    return scripted_model(tmp_path / "oracle", TEXT, TinyOptions(context_length=2000))


@pytest.fixture
def chat(talk, model):
    return lambda *lines, **options: talk(model, *lines, **options)


# --- answers and where they go ----------------------------------------------------------------------------------


def test_each_line_is_a_question_and_stdout_holds_the_answers_alone(chat):
    done = chat("hello", "and again?")
    assert (done.code, done.answers) == (0, f"{TEXT}\n{TEXT}\n")
    assert done.told.count(">>> ") == 3


def test_the_history_is_given_to_the_model_and_only_what_is_new_is_read(talk, tmp_path):
    # An answer of single letters has the same tokens when it is read again.
    letters = scripted_model(tmp_path / "letters", pieces=list("Paris"), options=TinyOptions(context_length=2000))
    turns = talk(letters, "one", "two", "three", "four", flags=("--verbose",)).figures
    assert turns[0].kept == 0
    for before, turn in zip(turns, turns[1:]):
        # All but the token that ended the turn before, for which the template has another one.
        assert turn.kept == before.used - 1
        assert turn.read < 40


def test_an_empty_line_asks_nothing(chat):
    done = chat("", "   ", "\t")
    assert (done.code, done.answers) == (0, "")


@pytest.mark.parametrize("word", ["exit", "quit", "q", "/bye", " exit ", "/BYE", "/exit"])
def test_words_that_end_the_chat(chat, word):
    done = chat("hello", word, "never read")
    assert (done.code, done.answers) == (0, TEXT + "\n")


def test_the_end_of_input_ends_it_with_success(chat):
    assert chat().code == 0


def test_no_stream_prints_whole_answers(chat):
    assert chat("a", "b", flags=("--no-stream",)).answers == f"{TEXT}\n{TEXT}\n"


def test_quiet_leaves_the_prompt_and_the_answers(chat):
    done = chat("hello", "/set seed 4", flags=("--quiet",))
    assert done.told.replace("\n", "") == ">>> " * 3


def test_reasoning_is_shown_to_people_and_is_no_part_of_the_history(talk, tmp_path):
    thinker = scripted_model(tmp_path / "m", "let me see</think>Paris it is.", THINKER)
    done = talk(thinker, "hello", "/show history", flags=("--verbose",))
    assert done.answers == "let me see\n\nParis it is.\n"
    assert ">>> hello\nParis it is.\n" in done.told
    assert "let me see" not in done.told
    hidden = talk(thinker, "hello", flags=("--hide-reasoning",))
    assert hidden.answers == "Paris it is.\n"


def test_answers_cannot_steer_the_terminal(talk, tmp_path):
    evil = scripted_model(tmp_path / "m", "safe \x1b[2Jtext\x07 here")
    done = talk(evil, "hello", "/show history")
    assert "\x1b" not in done.answers + done.told
    assert "safe \ufffd[2Jtext\ufffd here" in done.answers


def world(stdin: str, *, keyboard: bool, out: bool, err: bool, env: dict[str, str]) -> Io:
    return Io(Stream(stdin, keyboard), Stream(terminal=out), Stream(terminal=err), env)


def test_a_redirected_stdout_gets_plain_answers_while_the_chat_is_on_stderr(model, isolated_cache):
    io = world("hello\n", keyboard=True, out=False, err=True, env=isolated_cache.env)
    assert main(["run", str(model)], io) == 0
    assert io.stdout.getvalue() == TEXT + "\n"
    assert ">>> " in io.stderr.getvalue()


def test_a_redirected_stderr_leaves_the_chat_on_stdout(model, isolated_cache):
    io = world("hello\n", keyboard=True, out=True, err=False, env=isolated_cache.env)
    assert main(["run", str(model)], io) == 0
    assert ">>> " in io.stdout.getvalue() and TEXT in io.stdout.getvalue()
    assert io.stderr.getvalue() == ""


def test_a_keyboard_without_a_screen_is_a_usage_error(model, isolated_cache):
    io = world("hello\n", keyboard=True, out=False, err=False, env=isolated_cache.env)
    assert main(["run", str(model)], io) == 2
    assert "a prompt is missing" in io.stderr.getvalue()


def test_without_a_keyboard_the_prompt_is_read_and_answered_once(model, isolated_cache):
    result = call("run", str(model), stdin="one\ntwo\n", env=isolated_cache.env)
    assert (result.code, result.stdout, result.stderr) == (0, TEXT + "\n", "")


@pytest.mark.parametrize("flag", ["--json", "--stream-json"])
def test_json_without_a_prompt_on_a_terminal_is_a_usage_error(model, isolated_cache, flag):
    result = call("run", str(model), flag, terminal=True, env=isolated_cache.env)
    assert result.code == 2
    assert json.loads(result.stdout)["error"]["type"] == "CommandError"


@pytest.mark.parametrize(
    "flags",
    [
        ("--json-schema", "{}"),
        ("--regex", "a"),
        ("--choices", "a,b"),
        ("--prompt-cache", "x"),
        ("--no-chat-template",),
        ("--max-tokens", "0"),
        ("--stop", ""),
        ("--temperature", "-1"),
    ],
)
def test_flags_that_a_chat_cannot_honour_are_refused_by_name(chat, flags):
    done = chat("hello", flags=flags)
    assert (done.code, done.answers) == (2, "")
    assert flags[0] in done.told


def test_keep_context_needs_a_chat(model, isolated_cache):
    result = call("run", str(model), "hi", "--keep-context", "rotate", "--json", env=isolated_cache.env)
    assert (result.code, "--keep-context" in result.error["message"]) == (2, True)


def test_a_broken_model_is_refused_before_the_first_prompt(chat, model):
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    done = chat("hello")
    assert (done.code, done.answers) == (1, "")
    assert ">>> " not in done.told


def test_a_model_that_was_not_made_to_talk_says_so(talk, tmp_path):
    base = scripted_model(tmp_path / "m", TEXT, TinyOptions(chat_template=None))
    done = talk(base, "hello")
    assert "not made to talk" in done.told
    assert done.answers == TEXT + "\n"


@pytest.mark.mlx_real
def test_a_draft_model_guesses_ahead_in_every_answer(talk, tmp_path):
    letters = scripted_model(tmp_path / "letters", pieces=list("Paris"), options=TinyOptions(context_length=2000))
    plain = talk(letters, "one", "two", flags=("--verbose",))
    done = talk(letters, "one", "two", flags=("--verbose", "--draft-model", str(letters)))
    assert (done.code, done.answers) == (0, "Paris\nParis\n")
    assert done.figures[1].kept > 0 and done.figures[1].used == plain.figures[1].used


# --- commands ---------------------------------------------------------------------------------------------------


def test_help_lists_every_command_and_the_keys(chat):
    told = chat("/help").told
    for command in COMMANDS:
        assert f"\n/{command.name}" in told.replace(">>> ", "\n") and command.summary in told
    assert "Alt+Enter" in told and "Ctrl-D" in told
    assert chat("/?").told == told


def test_commands_need_no_model_to_answer(chat):
    lines = ["/help", "/show", "/set", "/stats", "/system", "/clear"]
    assert chat(*lines).answers == ""


def test_a_command_that_does_not_exist_is_named_and_nothing_is_asked(chat):
    done = chat("/shwo", "/nothing of the kind")
    assert (done.code, done.answers) == (0, "")
    assert "/shwo is no command" in done.told and "did you mean /show?" in done.told
    assert "/nothing is no command" in done.told


@pytest.mark.parametrize("line", ["/", "/  "])
def test_a_bare_slash_is_asked_nothing_and_told_of_help(chat, line):
    done = chat(line)
    assert (done.code, done.answers) == (0, "")
    assert "/ is no command" in done.told and "/help lists the commands" in done.told


@pytest.mark.parametrize("line", ["/etc/passwd, what is it?", " /help", "/* a comment */", "//help", "/ 2", "7 / 2"])
def test_a_slash_alone_makes_no_command(chat, line):
    assert chat(line).answers == TEXT + "\n"


def test_system_is_set_shown_and_removed(chat):
    lines = ("a", "/clear", "/system Be brief, and kind.", "/system", "a", "/clear", "/system off", "/system", "a")
    done = chat(*lines, flags=("--verbose",))
    plain, told, removed = (turn.read + turn.kept for turn in done.figures)
    assert told > plain == removed
    assert ">>> Be brief, and kind.\n" in done.told and ">>> no system message\n" in done.told


def test_system_may_come_from_the_command_line(chat):
    assert ">>> Be brief.\n" in chat("/system", flags=("--system", "Be brief.")).told


SETTABLE = [
    ("temperature", "1.5"), ("top_p", "0.5"), ("top_k", "40"), ("min_p", "0.1"), ("repetition_penalty", "1.3"),
    ("presence_penalty", "-0.5"), ("frequency_penalty", "0.25"), ("seed", "42"), ("max_tokens", "9"),
    ("keep_context", "rotate"), ("seed", "off"), ("max_tokens", "off"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), SETTABLE)
def test_set_changes_a_setting_and_shows_it(chat, name, value):
    told = chat(f"/set {name} {value}", f"/set {name}", flags=("--seed", "1", "--max-tokens", "5")).told
    assert told.count(name) == 2
    assert told.rstrip("\n> ").endswith(value)


def test_names_are_taken_as_flags_write_them(chat):
    assert "temperature  0.25" in chat("/set --temperature 0.25", "/set temperature").told
    assert "top_k  3" in chat("/set top-k 3", "/set top_k").told


def test_set_stop_ends_answers_before_the_text(chat):
    done = chat("a", "/set stop France is", "a", "/set stop off", "a")
    assert done.answers == f"{TEXT}\nThe capital of \n{TEXT}\n"


def test_set_max_tokens_cuts_answers(chat):
    done = chat("/set max_tokens 2", "a", "/set max_tokens off", "a", flags=("--verbose",))
    short, whole = done.figures
    assert short.said == 2 < whole.said
    assert "2 tokens, cut off" in done.told
    assert "context" not in done.told.partition("2 tokens, cut off")[0].split(">>> ")[-1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/set temperature", "temperature  0.7"),
        ("/set warmth 3", "'warmth' cannot be set"),
        ("/set warmth", "'warmth' cannot be set"),
        ("/set temperature hot", "temperature takes a number, not 'hot'"),
        ("/set temperature nan", "between 0 and 100"),
        ("/set top_k 1.5", "top_k takes a whole number, not '1.5'"),
        ("/set top_p 7", "error: top_p must be between 0 and 1"),
        ("/set seed -1", "error: seed must be between"),
        ("/set max_tokens 0", "error: max_tokens must be at least 1"),
        ("/set keep_context forget", "keep_context is fail or rotate"),
        ("/show me", "'me' cannot be shown"),
        ("/retry", "there is no answer to try again"),
        ("/undo", "there is nothing to take back"),
        ("/save", "a file name is missing"),
        ('/save ""', "a file name is missing"),
        ("/load", "a file name is missing"),
        ("/load nowhere.json", "nowhere.json cannot be read: No such file"),
        ("/save nowhere/at/all.json", "the chat could not be saved: No such file"),
        ("/load .", "it is no file"),
        ("/save .", "is there already"),
    ],
)
def test_bad_arguments_are_told_and_the_chat_goes_on(chat, line, message):
    done = chat(line, "/show", "hello")
    assert (done.code, done.answers) == (0, TEXT + "\n")
    assert message in done.told
    assert "turns               0\n" in done.told
    assert "temperature         0.7\n" in done.told and "seed                off\n" in done.told


def test_show_tells_model_and_settings(chat, model):
    told = chat("hello", "/system Be kind.", "/show").told
    for line in (f"model               {model}", "context             2000 tokens", "turns               1"):
        assert line in told
    assert "system              Be kind." in told and "temperature         0.7" in told


def test_show_history_shows_what_was_said(chat):
    done = chat("/show history", "hello\tthere", "/show history")
    assert "nothing was said yet" in done.told
    assert f">>> hello\tthere\n{TEXT}\n" in done.told


def test_stats_tell_the_last_answer_and_the_whole_chat(chat):
    done = chat("/stats", "hello", "hello", "/stats")
    assert "0 turns" in done.told
    (figures,) = done.figures
    assert figures.kept > 0 and figures.used > figures.kept
    assert f"2 turns, {2 * figures.said} tokens said" in done.told


def test_retry_answers_the_last_question_again_in_place(chat):
    done = chat("hello", "/retry", "/show", flags=("--verbose",))
    assert done.answers == f"{TEXT}\n{TEXT}\n"
    first, again = done.figures
    assert (again.used, again.read) == (first.used, 1)
    assert "turns               1\n" in done.told


def test_undo_takes_back_a_turn_and_tells_which(chat):
    done = chat("first", "second  question", "/undo", "second  question", flags=("--verbose",))
    assert "taken back: second question\n" in done.told
    _, second, again = done.figures
    assert (again.used, again.read) == (second.used, 1)


def test_clear_forgets_what_was_said_and_keeps_the_settings(chat):
    done = chat("hello", "there", "/set seed 7", "/clear", "/set seed", "hello", "/clear", flags=("--verbose",))
    first, _, afresh = done.figures
    assert afresh.used == first.used
    assert "2 turns forgotten" in done.told and "one turn forgotten" in done.told
    assert "seed  7" in done.told


# --- lines ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines",
    [
        ('"""', "a", "  b", "", "c", '"""'),
        ('"""a', "  b", "", 'c"""'),
        ('"""', "a", "  b", "", 'c"""  '),
    ],
)
def test_three_quotes_hold_several_lines_together(chat, lines):
    done = chat(*lines, "/show history")
    assert done.answers == TEXT + "\n"
    assert ">>> a\n  b\n\nc\n" + TEXT in done.told
    assert done.told.count("... ") == len(lines) - 1


def test_a_block_is_a_message_whatever_it_looks_like(chat):
    done = chat('"""/bye"""', '"""exit"""', '"""', "q", '"""')
    assert done.answers == f"{TEXT}\n" * 3


def test_a_command_may_be_given_a_block(chat):
    done = chat('/system """', "Be brief.", "Be kind.", '"""', "/system")
    assert ">>> Be brief.\nBe kind.\n" in done.told


def test_the_end_of_input_within_a_block_ends_the_chat_and_asks_nothing(chat):
    done = chat('"""', "never finished")
    assert (done.code, done.answers) == (0, "")


def test_an_empty_block_asks_nothing(chat):
    assert chat('""""""', '"""', '"""').answers == ""


# --- files ------------------------------------------------------------------------------------------------------


def saved(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_save_writes_a_document_with_everything(chat, tmp_path, model):
    path = tmp_path / "chat.json"
    done = chat("/system Be kind.", "hello", "/set seed 3", f"/save {path}")
    document = saved(path)
    assert (document["format"], document["version"], document["model"]) == ("mlxk2-chat", 1, str(model))
    assert document["system"] == "Be kind." and document["sampling"]["seed"] == 3
    assert document["messages"] == [{"role": "user", "content": "hello"}, {"role": "assistant", "content": TEXT}]
    assert f"saved to {path} (one turn)" in done.told
    assert [entry.name for entry in tmp_path.iterdir() if "partial" in entry.name] == []


def test_load_goes_on_where_save_stopped(chat, tmp_path):
    path = tmp_path / "my chat.json"
    flags = ("--verbose",)
    before = chat("/system Be kind.", "/set top_k 4", "hello", f'/save "{path}"', "more", flags=flags)
    after = chat(f"/load '{path}'", "more", "/show", flags=flags)
    assert after.figures[0].used == before.figures[1].used
    assert "system              Be kind." in after.told and "top_k               4" in after.told
    assert "(one turn), with its system message and settings" in after.told


def test_a_chat_with_a_token_that_the_model_lacks_is_not_loaded(chat, tmp_path):
    path = tmp_path / "chat.json"
    chat("hello", f"/save {path}")
    document = saved(path)
    document["sampling"]["logit_bias"] = {"999999": 5}
    path.write_text(json.dumps(document), encoding="utf-8")
    done = chat(f"/load {path}", "/show", "and now?")
    assert "error: logit_bias: the model has no token 999999" in done.told
    assert "turns               0\n" in done.told
    assert done.answers == TEXT + "\n"


def test_a_token_that_the_model_lacks_is_refused_before_the_first_prompt(chat):
    done = chat("hello", flags=("--logit-bias", "999999=5"))
    assert (done.code, done.answers) == (2, "")
    assert "--logit-bias: the model has no token 999999" in done.told


def test_load_of_another_models_chat_says_so(chat, talk, tmp_path):
    path = tmp_path / "chat.json"
    chat("hello", f"/save {path}")
    other = scripted_model(tmp_path / "other", "Yes.")
    done = talk(other, f"/load {path}", "and?")
    assert "which were with " in done.told and done.answers == "Yes.\n"


def test_home_is_written_as_a_tilde(chat, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    chat("hello", "/save ~/kept.json")
    assert saved(tmp_path / "kept.json")["messages"]


# --- the context ------------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path):
    return scripted_model(tmp_path / "small", "yes of course", TinyOptions(context_length=160))


def asked(done: Talk) -> int:
    return done.answers.count("yes of course\n")


def test_a_filling_context_is_told_before_an_error_with_figures_and_ways_on(talk, small):
    done = talk(small, *["hello"] * 5, "/undo", "/clear", "hello")
    warning, error = done.told.find("warning: "), done.told.find("error: ")
    assert 0 < warning < error
    assert "of the context's 160 tokens are used" in done.told
    assert "the model's context holds 160" in done.told
    assert done.told.count("/clear begins anew") == done.told.count("warning: ") + done.told.count("error: ")
    assert done.code == 0 and done.answers.endswith("yes of course\n")


def test_rotation_leaves_out_the_oldest_turns_and_says_how_many(talk, small):
    done = talk(small, *["hello"] * 12, "/show", flags=("--keep-context", "rotate", "--max-tokens", "6"))
    assert asked(done) == 12 and "error" not in done.told
    assert "turns are left out from now on, the context is full" in done.told
    assert "turns               12, the oldest " in done.told


def test_rotation_can_be_chosen_when_the_context_is_full(talk, small):
    full = talk(small, *["hello"] * 5, "/set keep_context rotate", "hello", flags=("--max-tokens", "6"))
    assert "error: " in full.told
    assert full.answers.endswith("yes of course\n") and asked(full) == asked(talk(small, *["hello"] * 5)) + 1


def test_an_answer_that_the_context_cuts_off_is_told(talk, tmp_path):
    endless = scripted_model(tmp_path / "m", pieces=["on ", "and "], repeat=True)
    done = talk(endless, "hello")
    assert "the context of 256 is full" in done.told and "the answer was cut off after" in done.told
