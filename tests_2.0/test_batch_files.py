"""The files of a batch: what is refused before anything is generated, and how a batch that was cut short goes on."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from support.batching import Batches, by_id, envelopes, write_lines, write_prompts
from support.call import checked
from support.isolation import above_permissions
from support.processes import wait_until
from support.tiny_model import TinyOptions, scripted_model

from mlxk2.operations import batch_prompts
from mlxk2.operations.batch_ledger import Ledger

TEXT = "The capital of France is Paris."
PROMPTS = {f"q{number}": f"question {number}" for number in range(10)}


@pytest.fixture
def batch(tmp_path, isolated_cache):
    made = Batches(scripted_model(tmp_path / "m", TEXT), tmp_path, isolated_cache.env)
    write_prompts(made.source, PROMPTS)
    return made


@pytest.fixture
def slow(tmp_path, isolated_cache):
    """A batch whose answers take a while and are of different lengths: some are done long before others, the last is long."""
    options = TinyOptions(context_length=2400)
    model = scripted_model(tmp_path / "m", pieces=["and ", "so ", "on "], repeat=True, options=options)
    made = Batches(model, tmp_path, isolated_cache.env)
    write_prompts(made.source, {number: "x" * (2280 - 40 * number if number < 19 else 200) for number in range(20)})
    return made


# --- prompts that cannot be read --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"id": 1, "prompt": "x"', "no JSON"),
        (b'"text"', "no JSON object"),
        (b'{"id": 1, "prompt": "caf\xe9"}', "not UTF-8"),
        (b"[" * 100000, "no JSON"),
        (b'{"prompt": "x"}', '"id" is missing'),
        (b'{"id": null, "prompt": "x"}', '"id" is neither'),
        (b'{"id": true, "prompt": "x"}', '"id" is neither'),
        (b'{"id": 1.5, "prompt": "x"}', '"id" is neither'),
        (b'{"id": "", "prompt": "x"}', '"id" must not be empty'),
        (b'{"id": 1, "id": 2, "prompt": "x"}', 'key "id" is there twice'),
        (b'{"id": 1, "prompt": "x", "prompt": "y"}', 'key "prompt" is there twice'),
        (b'{"id": 1, "messages": [{"role": "user", "content": "x", "content": "y"}]}', 'key "content" is there twice'),
        (b'{"id": 1, "prompt": "caf\\udce9"}', '"prompt" has half a surrogate pair'),
        (b'{"id": 1, "messages": [{"role": "user", "content": "\\ud83e"}]}', 'message 1: "content" has half a'),
        (b'{"id": "\\ud800", "prompt": "x"}', '"id" is neither'),
        (b'{"id": "q1", "prompt": "x"}', 'id "q1" is that of line 2'),
        (b'{"id": 1, "prompt": "x", "max_tokens": 5}', 'unknown key "max_tokens"'),
        (b'{"id": 1}', 'either "prompt" or "messages"'),
        (b'{"id": 1, "prompt": "x", "messages": []}', 'either "prompt" or "messages"'),
        (b'{"id": 1, "prompt": "  "}', '"prompt" is empty'),
        (b'{"id": 1, "prompt": ["x"]}', '"prompt" is no text'),
        (b'{"id": 1, "messages": []}', "no list of messages"),
        (b'{"id": 1, "messages": [{"role": "user"}]}', "message 1"),
        (b'{"id": 1, "messages": [{"role": "user", "content": "x", "name": "y"}]}', "message 1"),
        (b'{"id": 1, "messages": [{"role": "robot", "content": "x"}]}', "the role must be one of"),
        (b'{"id": 1, "messages": [{"role": "user", "content": 5}]}', '"content" is no text'),
    ],
)
def test_a_line_that_cannot_be_read_is_named_before_anything_is_generated(batch, line, words):
    with batch.source.open("ab") as file:
        file.write(line + b'\n{"id": "after", "prompt": "x"}\n')
    result = batch("--json")
    assert (result.code, result.error["type"]) == (2, "CommandError")
    assert "line 11" in result.error["message"] and words in result.error["message"]
    assert '{"id": "1", "prompt": "..."}' in result.error["hint"]
    assert not batch.target.exists()


def test_a_line_longer_than_any_prompt_is_refused(batch):
    with batch.source.open("ab") as file:
        file.write(b'{"id": 1, "prompt": "' + b"x" * batch_prompts.LONGEST_LINE_BYTES + b'"}\n')
    result = batch("--json")
    assert (result.code, "line 11: it is longer than" in result.error["message"]) == (2, True)


def test_messages_need_the_chat_template(batch):
    write_lines(batch.source, [{"id": 1, "messages": [{"role": "user", "content": "x"}]}])
    result = batch("--json", "--no-chat-template")
    assert (result.code, "--no-chat-template" in result.error["message"]) == (2, True)


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe"])
def test_prompts_must_be_in_a_file(batch, kind):
    batch.source.unlink()
    if kind == "folder":
        batch.source.mkdir()
    if kind == "pipe":
        os.mkfifo(batch.source)
    result = batch("--json")
    assert (result.code, result.error["type"]) == (2, "CommandError")
    assert "--input" in result.error["message"]


# --- files that are no answers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("alias", ["same", "symlink", "hard link"])
def test_answers_never_go_into_the_file_of_prompts(batch, alias):
    before = batch.source.read_bytes()
    if alias == "same":
        batch.target = batch.source
    elif alias == "symlink":
        batch.target.symlink_to(batch.source)
    else:
        os.link(batch.source, batch.target)
    result = batch("--json")
    assert (result.code, "--output" in result.error["message"]) == (2, True)
    assert batch.source.read_bytes() == before


@pytest.mark.parametrize(
    "content",
    [
        b"my notes",
        b"my notes\n",
        b'{"id": 1, "prompt": "x"}\n',
        b'{"status": "success", "command": "list", "data": {}, "error": null}',
        b'{"status": "success", "command": "run", "data": {"model": "m", "prompt": "x"}, "error": null}\n',
        b'{"status": "success", "command": "run", "data": {"id": 1}, "error"\n',
        b'{"status": "success", "command": "run", "data": {"id": 1.5}, "error": null}\n',
        b"\n",
        b"\x00" * 100,
    ],
)
def test_a_file_that_is_something_else_is_left_alone(batch, content):
    batch.target.write_bytes(content)
    result = batch("--json")
    assert (result.code, "no file of answers" in result.error["message"]) == (2, True)
    assert batch.target.read_bytes() == content


def test_something_else_behind_answers_is_left_alone_too(batch):
    assert batch().code == 0
    content = batch.target.read_bytes() + b"my notes\n"
    batch.target.write_bytes(content)
    result = batch("--json")
    assert (result.code, "line 11" in result.error["message"]) == (2, True)
    assert batch.target.read_bytes() == content


def test_a_folder_and_a_folder_that_is_not_there_are_refused(batch):
    batch.target.mkdir()
    assert batch("--json").code == 2
    batch.target = batch.target / "deeper" / "answers.jsonl"
    assert batch("--json").code == 2


@pytest.mark.parametrize("kind", ["/dev/stdout", "/dev/null", "pipe"])
def test_streams_and_devices_are_no_files_of_answers(batch, kind, tmp_path):
    if kind == "pipe":
        kind = str(tmp_path / "pipe")
        os.mkfifo(kind)
    batch.target = kind
    result = batch("--json")
    assert (result.code, result.error["message"]) == (2, "--output must be a file")


def test_where_nothing_can_be_written_nothing_is_said_to_be_kept(batch, tmp_path):
    if above_permissions():
        pytest.skip("this user may write everywhere")
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    batch.target = folder / "answers.jsonl"
    result = batch("--json")
    assert (result.code, result.error["type"]) == (1, "output_failed")
    assert "kept" not in result.error["message"] and "--output" in result.error["hint"]


def test_answers_of_another_model_are_not_mixed_in(batch, tmp_path):
    assert batch().code == 0
    before = batch.target.read_bytes()
    batch.model = scripted_model(tmp_path / "other", "Something else.")
    result = batch("--json")
    assert (result.code, str(tmp_path / "m") in result.error["message"]) == (2, True)
    assert batch.target.read_bytes() == before


def test_a_folder_that_is_spelled_in_another_way_is_the_same_model(batch):
    assert batch().code == 0
    batch.model = batch.model.parent / "." / ".." / batch.model.parent.name / batch.model.name
    assert batch("--json").data["skipped"] == 10


def test_two_processes_never_write_to_one_file(batch):
    assert batch().code == 0
    keep_lines(batch, 3)
    with batch.target.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        result = batch("--json")
    assert (result.code, result.error["type"]) == (1, "output_failed")
    assert len(batch.answers) == 3


def test_a_file_that_cannot_be_written_is_an_error_of_the_output(batch):
    if not os.path.exists("/dev/full"):
        pytest.skip("needs a device that is always full")
    # Limits hold for root too: no file of this process may grow beyond a few lines.
    command = f"ulimit -f 1; exec {sys.executable} -m mlxk2 " + " ".join(batch.command("--json"))
    env = {**os.environ, **batch.env, "PYTHONDONTWRITEBYTECODE": "1"}
    child = subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True, timeout=120, check=False)
    answer = checked(child.stdout, child.returncode)
    assert answer["error"]["type"] == "output_failed" and "is kept" in answer["error"]["message"]
    kept = batch.answers
    assert 0 < len(kept) < 10
    assert batch("--json").data["skipped"] == len(kept)
    assert set(batch.answers) == set(PROMPTS)


# --- going on ---------------------------------------------------------------------------------------------------------


def keep_lines(batch, count):
    lines = batch.target.read_bytes().splitlines(keepends=True)
    batch.target.write_bytes(b"".join(lines[:count]))


def test_what_has_an_answer_is_not_asked_again(batch):
    assert batch("--json").data["answered"] == 10
    before = batch.target.read_bytes()
    again = batch("--json").data
    assert (again["answered"], again["skipped"], again["batch_size"]) == (0, 10, 0)
    assert batch.target.read_bytes() == before


def test_a_batch_goes_on_where_it_ended(batch):
    assert batch().code == 0
    keep_lines(batch, 4)
    before = batch.target.read_bytes()
    again = batch("--json").data
    assert (again["answered"], again["skipped"]) == (6, 4)
    assert batch.target.read_bytes().startswith(before)
    assert set(batch.answers) == set(PROMPTS)


def test_prompts_that_joined_later_are_answered_and_those_that_left_keep_their_answers(batch):
    assert batch().code == 0
    write_prompts(batch.source, {"q3": "question 3", "new": "another one"})
    again = batch("--json").data
    assert (again["total"], again["answered"], again["skipped"]) == (2, 1, 1)
    assert set(batch.answers) == {*PROMPTS, "new"}


def test_a_last_line_that_was_cut_anywhere_is_written_anew(batch):
    write_prompts(batch.source, {1: "one", 2: "two"})
    assert batch().code == 0
    whole = batch.target.read_bytes()
    first = whole.index(b"\n") + 1
    complete = by_id(batch.target)
    for length in (*range(first + 1, len(whole), 37), len(whole) - 2):
        batch.target.write_bytes(whole[:length])
        assert batch("--json").data["answered"] == 1, length
        answers = batch.answers
        assert [answers[key]["response"] for key in complete] == [TEXT, TEXT]


def test_a_last_line_that_lacks_only_its_end_counts(batch):
    assert batch().code == 0
    whole = batch.target.read_bytes()
    batch.target.write_bytes(whole[:-1])
    assert batch("--json").data["skipped"] == 10
    assert batch.target.read_bytes() == whole


def test_a_first_line_that_was_cut_is_written_anew(batch):
    assert batch().code == 0
    whole = batch.target.read_bytes()
    for length in (1, 5, 30, 60, 200):
        batch.target.write_bytes(whole[:length])
        assert batch("--json").data["answered"] == 10
        assert set(batch.answers) == set(PROMPTS)


def test_what_failed_is_tried_again_and_its_failure_goes(batch):
    write_prompts(batch.source, {1: "short", 2: "long " * 400})
    result = batch("--json")
    assert (result.code, result.error["type"], result.data["failed"]) == (1, "batch_incomplete", 1)
    assert batch.answers[2]["type"] == "context_length_exceeded"
    os.chmod(batch.target, 0o640)
    assert batch("--json").data["failed"] == 1
    assert [line["status"] for line in envelopes(batch.target)] == ["success", "error"]
    write_prompts(batch.source, {1: "short", 2: "short now"})
    again = batch("--json").data
    assert (again["answered"], again["skipped"], again["failed"]) == (1, 1, 0)
    assert batch.answers[2]["response"] == TEXT
    assert stat.S_IMODE(batch.target.stat().st_mode) == 0o640
    assert sorted(path.name for path in batch.target.parent.glob("*answers*")) == ["answers.jsonl"]


def test_a_prompt_that_is_another_one_now_is_answered_again_in_its_place(batch):
    write_prompts(batch.source, {1: "one", 2: "two", 3: "three"})
    assert batch().code == 0
    write_prompts(batch.source, {1: "one", 2: "another two", 3: "three"})
    again = batch("--json")
    assert (again.code, again.data["answered"], again.data["skipped"]) == (0, 1, 2)
    assert again.data["warnings"] == ["1 answer is to another prompt than the input has now, and asked for again"]
    assert {key: answer["prompt"] for key, answer in batch.answers.items()} == {1: "one", 2: "another two", 3: "three"}
    assert "warnings" not in batch("--json").data


def test_earlier_messages_are_a_part_of_the_prompt(batch):
    def line(system):
        messages = [{"role": "system", "content": system}, {"role": "user", "content": "hi"}]
        return {"id": 1, "messages": messages}

    write_lines(batch.source, [line("Be brief.")])
    assert batch().code == 0
    write_lines(batch.source, [line("Be kind.")])
    told = batch()
    assert (told.code, told.stderr.count("1 answer is to another prompt")) == (0, 1)
    assert "1 answered" in told.stdout


@pytest.mark.parametrize("flags", [("--system", "Be brief."), ("--seed", "5"), ("--temperature", "0"), ("--stop", "x")])
def test_answers_to_other_options_are_kept_and_told_of(batch, flags):
    assert batch().code == 0
    before = batch.target.read_bytes()
    again = batch(*flags)
    assert (again.code, batch.target.read_bytes()) == (0, before)
    assert again.stderr.count("warning: 10 answers are kept that had other options") == 1
    assert batch().stderr == batch("--force", "--hide-reasoning").stderr == ""
    (warning,) = batch("--json", *flags).data["warnings"]
    assert "name another --output" in warning


def test_failures_of_other_prompts_stay(batch):
    write_prompts(batch.source, {1: "long " * 400, 2: "long " * 500})
    assert batch("--json").data["failed"] == 2
    write_prompts(batch.source, {2: "short"})
    assert batch("--json").data["answered"] == 1
    assert (batch.answers[1]["type"], batch.answers[2]["response"]) == ("context_length_exceeded", TEXT)


def test_a_link_to_the_answers_stays_a_link(batch, tmp_path):
    write_prompts(batch.source, {1: "long " * 400, 2: "short"})
    real = tmp_path / "elsewhere.jsonl"
    real.touch()
    batch.target.symlink_to(real)
    assert batch().code == 1
    write_prompts(batch.source, {1: "short", 2: "short"})
    assert batch().code == 0
    assert batch.target.is_symlink()
    assert by_id(real)[1]["response"] == TEXT


# --- processes that end early -----------------------------------------------------------------------------------------


@contextmanager
def running(batch, *flags) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-m", "mlxk2", *batch.command(*flags)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env={**os.environ, **batch.env}, text=True, **pipes) as child:
        try:
            yield child
        finally:
            child.kill()


def has_answers(batch, count):
    return lambda: batch.target.exists() and batch.target.read_bytes().count(b"\n") >= count


def test_a_killed_batch_keeps_what_was_done_and_goes_on(slow):
    with running(slow) as child:
        wait_until(has_answers(slow, 3), "three answers are there")
        child.send_signal(signal.SIGKILL)
        child.wait(timeout=60)
    before = slow.target.read_bytes()
    done = before[: before.rindex(b"\n") + 1]
    assert 3 <= done.count(b"\n") < 20
    again = slow("--json").data
    assert (again["answered"], again["skipped"]) == (20 - done.count(b"\n"), done.count(b"\n"))
    assert slow.target.read_bytes().startswith(done)
    assert set(slow.answers) == set(range(20))


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(slow, flags):
    with running(slow, *flags) as child:
        wait_until(has_answers(slow, 3), "three answers are there")
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    assert child.returncode == 130
    done = len(slow.answers)
    assert 3 <= done < 20
    if flags:
        answer = checked(out, 130)
        assert (answer["error"]["type"], err) == ("interrupted", "")
        assert (answer["data"]["answered"], answer["data"]["remaining"]) == (done, 20 - done)
        assert answer["error"]["hint"] == shlex.join(["mlxk2", *slow.command(*flags)])
    else:
        assert f"{done} answered, {20 - done} not answered yet" in out
        assert "interrupted" in err and "goes on" in err
    assert slow("--json").data["skipped"] == done
    assert set(slow.answers) == set(range(20))


# --- many -------------------------------------------------------------------------------------------------------------


def test_a_ledger_of_many_ids_needs_little_memory(tmp_path):
    """In a process of its own, where nothing else has taken memory before."""
    script = (
        "import resource, sys\n"
        "from mlxk2.operations.batch_ledger import Ledger\n"
        "with Ledger() as ledger:\n"
        "    ledger.add('warm', 0)\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "    for number in range(300000):\n"
        "        assert ledger.add('a rather long id of a prompt, number %d' % number, number) is None\n"
        "    assert ledger.count() == 300001\n"
        "    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (1 if sys.platform == 'darwin' else 1024))\n"
    )
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert int(child.stdout) < 32 * 2**20


def test_a_ledger_knows_its_ids_by_kind_and_text():
    with Ledger() as ledger:
        assert ledger.add("1", 1) is None
        assert ledger.add(1, 2) is None
        assert ledger.add("1", 3) == 1
        ledger.note_answer(1)
        ledger.note_answer("unknown")
        assert (ledger.is_answered(1), ledger.is_answered("1"), ledger.is_answered("unknown")) == (True, False, False)
        assert (ledger.count(), ledger.count_answered()) == (2, 1)
        assert (ledger.knows(1), ledger.knows("unknown")) == (True, False)


def test_no_reader_finds_an_end_of_line_within_an_answer(batch):
    prompt = 'quote " and \\ and \n newline, \u2028 \u2029 separators, \x85 next line, \x0b tab'
    write_prompts(batch.source, {"ü": prompt})
    assert batch().code == 0
    (line,) = batch.target.read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["data"]["prompt"] == prompt
    assert "ü" in line
