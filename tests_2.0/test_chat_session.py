"""The conversation behind a chat: turns, what is kept of them, files, and a context that fills up."""

from __future__ import annotations

import json
import os
import stat

import pytest
from conftest_chat import drain, warnings_of
from support.processes import wait_until
from support.random_models import CONFIGS, random_model
from support.smollm2 import smollm2
from support.tiny_model import TinyOptions

from mlxk2 import errors
from mlxk2.events import Delta, Finished, Warned
from mlxk2.operations.chat_file import LARGEST_BYTES, read_chat
from mlxk2.operations.chat_settings import SETTINGS, ChatSettings
from mlxk2.operations.chat_turns import Turn
from mlxk2.runner.request import EngineOptions, Sampling

PIECES = ["one ", "two ", "three ", "four"]
LISTENS = "{% for m in messages %}{% if 'forbidden' in m.content %}{{ raise_exception('not that') }}{% endif %}\
<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"


@pytest.fixture
def session(session_of, scripted):
    return session_of(scripted(pieces=PIECES, options=TinyOptions(context_length=2000, chat_template=LISTENS)))


def questions(session):
    return [turn.question for turn in session.turns]


# --- turns ------------------------------------------------------------------------------------------------------


def test_a_turn_has_the_answer_and_what_it_took(session):
    events = []
    steps = session.ask("hello")
    events.append(next(steps))
    steps.close()
    turn = drain(session.ask("hello"))
    assert (turn.question, turn.answer, turn.reason) == ("hello", "".join(PIECES), "stop")
    assert turn.usage.total_tokens == turn.usage.prompt_tokens + turn.usage.completion_tokens
    assert turn.tokens_per_second > 0


def interrupted(steps, count):
    """Press Ctrl-C after so many pieces."""
    said = 0
    for event in steps:
        said += isinstance(event, Delta)
        if said == count:
            break
    finished = steps.throw(KeyboardInterrupt())
    assert isinstance(finished, Finished) and finished.reason == "interrupted"
    with pytest.raises(StopIteration) as end:
        next(steps)
    return end.value.value


def test_an_interrupted_answer_is_kept_with_what_was_said(session):
    turn = interrupted(session.ask("hello"), 2)
    assert (turn.answer, turn.reason) == ("one two ", "interrupted")
    assert session.turns == (turn,)
    assert drain(session.retry()).answer == "".join(PIECES)
    assert questions(session) == ["hello"]


def test_an_answer_that_is_left_lying_is_kept_too(session):
    steps = session.ask("hello")
    said = [next(steps) for _ in range(3)]
    steps.close()
    told = "".join(event.text for event in said if isinstance(event, Delta))
    assert session.turns == (Turn("hello", told, "interrupted"),) and told == "one two "
    assert drain(session.ask("again")).answer == "".join(PIECES)


def test_a_question_without_an_answer_can_be_tried_again_and_is_not_told_to_the_model(session):
    steps = session.ask("hello")
    next(steps)
    steps.throw(KeyboardInterrupt())
    steps.close()
    assert [(turn.question, turn.answer) for turn in session.turns] == [("hello", "")]
    after = drain(session.ask("hello"))
    assert session.undo() == after
    assert drain(session.retry()).usage.prompt_tokens == after.usage.prompt_tokens


def test_an_interrupted_retry_that_said_nothing_leaves_the_old_answer(session):
    old = drain(session.ask("hello"))
    steps = session.retry()
    next(steps)
    steps.throw(KeyboardInterrupt())
    steps.close()
    assert session.turns == (old,)


def test_undo_goes_back_turn_by_turn(session):
    for words in ("a", "b", "c"):
        drain(session.ask(words))
    assert [session.undo().question, session.undo().question] == ["c", "b"]
    assert questions(session) == ["a"]
    session.undo()
    with pytest.raises(errors.UsageError):
        session.undo()


def test_a_template_that_fails_changes_nothing(session):
    drain(session.ask("hello"))
    for steps in (session.ask("this is forbidden"), session.ask("forbidden again")):
        with pytest.raises(errors.GenerationFailed, match="not that"):
            drain(steps)
    assert questions(session) == ["hello"]
    assert drain(session.ask("still there?")).reason == "stop"


def test_a_retry_that_fails_leaves_the_old_answer(session):
    old = drain(session.ask("hello"))
    session.use_system("forbidden")
    with pytest.raises(errors.GenerationFailed) as failed:
        drain(session.retry())
    assert failed.value.hint == "/system off removes the system message"
    assert session.turns == (old,)


def test_memory_is_checked_with_every_turn(session_of, tiny):
    path = tiny(context_length=4096)
    need = session_of(path)._plan.memory.demand(300).total_bytes
    session = session_of(path, memory_limit=need)
    session.load()
    drain(session.ask("short"))
    with pytest.raises(errors.InsufficientMemory):
        drain(session.ask("long " * 400))
    assert questions(session) == ["short"]
    assert drain(session.ask("short again")).usage is not None


def test_settings_that_cannot_be_are_refused_before_a_weight_is_read(session_of, tiny):
    with pytest.raises(errors.UsageError, match="--max-tokens"):
        session_of(tiny(), ChatSettings(max_tokens=0))


def test_every_setting_is_read_back_as_it_is_shown():
    settings = ChatSettings(Sampling(seed=3), max_tokens=4, stop=("x",))
    for name in SETTINGS:
        if name != "stop":
            assert settings.changed(name, settings.values()[name]) == settings


# --- the same answers as without a memory -----------------------------------------------------------------------


def story(session):
    """Questions, the last one again, one taken back, another way on, a beginning anew."""
    answers = [drain(session.ask(words)).answer for words in ("What is it?", "And that, please?", "Why?")]
    answers.append(drain(session.retry()).answer)
    session.undo()
    session.undo()
    answers += [drain(session.ask(words)).answer for words in ("Something else?", "Go on.")]
    session.use_system("Be brief.")
    answers.append(drain(session.ask("Really?")).answer)
    session.clear()
    return [*answers, drain(session.ask("What is it?")).answer]


@pytest.mark.mlx_real
@pytest.mark.parametrize("kind", CONFIGS)
def test_answers_are_those_of_a_model_that_forgets(session_of, tmp_path, kind):
    path = random_model(tmp_path / kind, kind)
    settings = ChatSettings(Sampling(temperature=1.1, seed=5), max_tokens=6)
    keeping = story(session_of(path, settings))
    assert keeping == story(session_of(path, settings, engine=EngineOptions(reuse_cache=False)))
    assert keeping[2] == keeping[3]


@pytest.mark.mlx_real
def test_retry_with_a_seed_gives_the_same_answer_and_with_another_seed_another(session_of, tiny):
    session = session_of(tiny(context_length=1000), ChatSettings(Sampling(temperature=1.5, seed=5), max_tokens=12))
    first, again = drain(session.ask("hello")), drain(session.retry())
    assert first.answer == again.answer
    assert again.usage.cached_tokens == again.usage.prompt_tokens - 1
    session.set("seed", "6")
    assert drain(session.retry()).answer != first.answer
    session.set("seed", "off")
    assert len({drain(session.retry()).answer for _ in range(4)}) > 1


@pytest.mark.mlx_real
@pytest.mark.smollm2
def test_a_real_model_knows_what_was_said_and_reads_only_what_is_new(session_of):
    session = session_of(smollm2(), ChatSettings(Sampling(temperature=0), max_tokens=16))
    first = drain(session.ask("What is the capital of France?"))
    second = drain(session.ask("And of Spain?"))
    assert "Paris" in first.answer and "Madrid" in second.answer
    # All but the token that ended the answer, which the template writes again.
    assert second.usage.cached_tokens >= first.usage.total_tokens - 1
    assert drain(session.retry()).answer == second.answer


# --- the context ------------------------------------------------------------------------------------------------


@pytest.fixture
def small(session_of, scripted):
    """A session whose context holds a few turns; answers of five letters."""
    path = scripted(pieces=list("Paris"), options=TinyOptions(context_length=200))
    return lambda keep: session_of(path, ChatSettings(Sampling(temperature=0), max_tokens=6, keep_context=keep))


def test_a_full_context_is_an_error_with_figures_that_changes_nothing(small):
    session = small("fail")
    told = []
    with pytest.raises(errors.ContextLengthExceeded) as full:
        for number in range(20):
            told += warnings_of(session.ask(f"question {number}"))
    error = full.value
    assert error.extra == {"prompt_tokens": error.extra["prompt_tokens"], "context_length": 200}
    assert error.extra["prompt_tokens"] >= 200
    assert "/clear" in error.hint and "keep_context rotate" in error.hint
    assert len(told) in (1, 2) and "of the context's 200 tokens are used (8" in told[0]
    count = len(session.turns)
    session.undo()
    session.undo()
    drain(session.ask("a"))
    assert len(session.turns) == count - 1


def test_a_warning_comes_once_for_each_level_and_again_after_the_context_was_cleared(session_of, scripted):
    path = scripted(pieces=list("Paris"), options=TinyOptions(context_length=1000))
    session = session_of(path, ChatSettings(Sampling(temperature=0), max_tokens=6))

    def levels():
        told = [line for _ in range(28) for line in warnings_of(session.ask("question"))]
        assert session.turns[-1].usage.total_tokens > 920
        return [line.partition("(")[2].partition(" %")[0] for line in told]

    first = levels()
    session.clear()
    assert first == levels() and [level[0] for level in first] == ["8", "9"]


def test_rotation_keeps_answering_and_keeps_all_turns(small):
    session = small("rotate")
    warned = {number: warnings_of(session.ask(f"question {number}")) for number in range(30)}
    assert len(session.turns) == 30
    assert all(turn.answer == "Paris" for turn in session.turns)
    assert all(turn.usage.total_tokens <= 200 for turn in session.turns)
    told = [line for lines in warned.values() for line in lines]
    # Seldom, so that what was read can be used again in between.
    assert 2 < len(told) < 15
    assert all("left out from now on" in line for line in told)
    assert f"the oldest {session.left_out} turns" in told[-1]
    cached = [turn.usage.cached_tokens for turn in session.turns[1:]]
    assert sum(count > 50 for count in cached) > 12


def test_rotation_leaves_the_system_message_in_place(small):
    session = small("rotate")
    session.use_system("Be kind.")
    for number in range(12):
        drain(session.ask(f"question {number}"))
    afresh = small("rotate")
    afresh.use_system("Be kind.")
    kept = session.turns[session.left_out : -1]
    afresh.turns = kept
    assert drain(afresh.ask("question 11")).usage.prompt_tokens == session.turns[-1].usage.prompt_tokens


def test_a_question_that_is_too_long_by_itself_is_an_error_with_rotation_too(small):
    session = small("rotate")
    drain(session.ask("hello"))
    with pytest.raises(errors.ContextLengthExceeded):
        drain(session.ask("far too long " * 30))
    assert questions(session) == ["hello"]
    # One that leaves no room for what was said is answered without it.
    events = []
    steps = session.ask("long " * 30)
    for event in steps:
        events.append(event)
    assert [event.message for event in events if isinstance(event, Warned)][:1] == [
        "the oldest turn is left out from now on, the context is full"
    ]


def test_turns_that_were_left_out_come_back_when_there_is_room(small):
    session = small("rotate")
    for number in range(8):
        drain(session.ask(f"question {number}"))
    assert session.left_out > 0
    while len(session.turns) > 2:
        session.undo()
    used = drain(session.ask("question 2")).usage.prompt_tokens
    assert session.left_out == 0
    plain = small("fail")
    for number in range(3):
        turn = drain(plain.ask(f"question {number}"))
    assert used == turn.usage.prompt_tokens


# --- files ------------------------------------------------------------------------------------------------------


def test_a_chat_is_read_back_as_it_was_written(session, session_of, scripted, tmp_path):
    settings = ChatSettings(
        Sampling(0.3, 0.8, 7, 0.01, 1.2, 0.5, -0.5, {3: -1.5, 4: 2}, 2**64 - 1), "Be kind. 🦊", 9, ("a", "b")
    )
    for words in ('say "hi"\n\tplease', "\u2028 🦊 \x00"):
        drain(session.ask(words))
    session.settings = settings
    path = tmp_path / "chat.json"
    assert session.save(path) is False
    loaded = read_chat(path)
    assert loaded.settings == settings
    assert [(turn.question, turn.answer) for turn in loaded.turns] == [(t.question, t.answer) for t in session.turns]
    session.clear()
    session.settings = ChatSettings(keep_context="rotate")
    assert session.restore(path).turns == 2
    assert session.settings == ChatSettings(settings.sampling, settings.system, 9, ("a", "b"), "rotate")


def test_token_ids_of_another_model_are_not_taken_over(session, session_of, tiny, tmp_path):
    session.settings = ChatSettings(Sampling(logit_bias={3: -1.5}))
    session.save(tmp_path / "chat.json")
    other = session_of(tiny())
    assert other.restore(tmp_path / "chat.json").model == session.model != other.model
    assert dict(other.settings.sampling.logit_bias) == {}


def test_a_question_without_an_answer_survives_a_file(session, tmp_path):
    session.turns = (Turn("a", "b"), Turn("c", "", "interrupted"))
    session.save(tmp_path / "chat.json")
    session.restore(tmp_path / "chat.json")
    assert [(turn.question, turn.answer) for turn in session.turns] == [("a", "b"), ("c", "")]


def good(**changes):
    document = {"format": "mlxk2-chat", "version": 1, "model": "m", "system": None, "sampling": {}, "messages": []}
    return json.dumps({**document, **changes})


def messages(*pairs):
    return [{"role": role, "content": content} for role, content in pairs]


DAMAGED = {
    "nothing": ("", "is no JSON"),
    "half": (good()[:40], "is no JSON"),
    "a list": ("[1]", "was not written by /save"),
    "another format": (good(format="other"), "was not written by /save"),
    "foreign JSON": ('{"messages": []}', "was not written by /save"),
    "newer": (good(version=2), "newer MLX Knife"),
    "version of a kind": (good(version="1"), "version '1' is none"),
    "version true": (good(version=True), "version True is none"),
    "no model": (good(model=None), "model should be a text"),
    "system list": (good(system=["x"]), "system should be a text"),
    "sampling list": (good(sampling=[1]), "its sampling is none"),
    "unknown sampling": (good(sampling={"warmth": 1}), "its sampling is none"),
    "range": (good(sampling={"temperature": -1}), "--temperature must be between"),
    "text for a number": (good(sampling={"top_p": "0.5"}), "--top-p must be between"),
    "true for a number": (good(sampling={"top_k": True}), "--top-k must be"),
    "infinite": (good(sampling={"temperature": 1}).replace("1}", "1e999}"), "--temperature must be between"),
    "NaN": (good(sampling={"temperature": 1}).replace("1}", "NaN}"), "NaN is no JSON"),
    "bias list": (good(sampling={"logit_bias": [1]}), "its logit_bias is none"),
    "bias of a word": (good(sampling={"logit_bias": {"x": 1}}), "invalid literal"),
    "max_tokens": (good(max_tokens=0), "--max-tokens must be at least 1"),
    "max_tokens text": (good(max_tokens="7"), "--max-tokens must be at least 1"),
    "stop text": (good(stop="x"), "stop should be a list"),
    "stop empty": (good(stop=[""]), "--stop must not be empty"),
    "no messages": (good(messages=None), "messages should be a list"),
    "message text": (good(messages=["hi"]), "message 1 should be the user's"),
    "assistant first": (good(messages=messages(("assistant", "hi"))), "message 1 should be the user's"),
    "system inside": (good(messages=messages(("user", "a"), ("system", "b"))), "message 2 should be the assistant's"),
    "two users": (good(messages=messages(("user", "a"), ("user", "b"))), "message 2 should be the assistant's"),
    "content list": (good(messages=messages(("user", ["a"]))), "message 1 should be a text"),
    "deep": ("[" * 200_000, "nested too deeply|is no JSON"),
    "long number": (good().replace('"version": 1', '"version": ' + "1" * 5000), "number of absurd length"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_or_foreign_file_is_a_clear_error_and_changes_nothing(session, tmp_path, kind):
    content, words = DAMAGED[kind]
    path = tmp_path / "chat.json"
    path.write_text(content, encoding="utf-8")
    drain(session.ask("hello"))
    before = session.turns, session.settings
    with pytest.raises(errors.UsageError, match=words) as refused:
        session.restore(path)
    assert str(path) in refused.value.message and "is no chat" in refused.value.message
    assert (session.turns, session.settings) == before
    with pytest.raises(errors.UsageError, match="is not replaced"):
        session.save(path)
    assert path.read_text(encoding="utf-8") == content


def test_bytes_that_are_no_text_and_files_that_are_too_large_are_no_chats(session, tmp_path):
    path = tmp_path / "chat.json"
    path.write_bytes(b'{"format": "\xff"}')
    with pytest.raises(errors.UsageError, match="not UTF-8"):
        session.restore(path)
    with open(path, "wb") as file:
        file.truncate(LARGEST_BYTES + 1)
    with pytest.raises(errors.UsageError, match="larger than"):
        session.restore(path)


def test_a_lone_surrogate_becomes_a_question_mark(session, tmp_path):
    path = tmp_path / "chat.json"
    path.write_text(good(messages=messages(("user", "\ud800?"))), encoding="utf-8")
    session.restore(path)
    assert drain(session.retry()).question == "??"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_what_is_no_file_is_neither_read_nor_replaced(session, tmp_path, make):
    path = tmp_path / "thing"
    make(path)
    for act in (session.restore, session.save):
        with pytest.raises(errors.UsageError, match="it is no file"):
            act(path)
    assert not path.is_file()


def test_a_chat_that_cannot_be_saved_leaves_nothing_behind(session, tmp_path):
    with pytest.raises(errors.OutputFailed, match="could not be saved"):
        session.save(tmp_path / "missing" / "chat.json")
    assert list(tmp_path.rglob("*.mlxk2*")) == []
    with pytest.raises(errors.MlxkError):
        session.save(tmp_path / ("x" * 300))


def test_saving_over_a_chat_keeps_its_mode_and_its_links(session, tmp_path):
    path, link = tmp_path / "chat.json", tmp_path / "link.json"
    session.save(path)
    path.chmod(0o640)
    link.symlink_to(path)
    drain(session.ask("hello"))
    assert session.save(link) is True
    assert link.is_symlink() and stat.S_IMODE(path.stat().st_mode) == 0o640
    assert len(read_chat(path).turns) == 1


def test_a_reader_never_sees_half_a_chat(session, tmp_path):
    """Saved over and over while it is read: each time it is a whole one."""
    import threading

    path = tmp_path / "chat.json"
    session.turns = tuple(Turn(f"question {number}", "answer " * 200) for number in range(200))
    session.save(path)
    counts, done = set(), threading.Event()

    def read():
        while not done.is_set():
            counts.add(len(read_chat(path).turns))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for _ in range(10):
            session.save(path)
        wait_until(lambda: bool(counts), "the file was read")
    finally:
        done.set()
        reader.join()
    assert counts == {200}
