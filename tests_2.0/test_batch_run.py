"""`run --input FILE --output FILE`: a batch says what single runs say, and says what it did."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.batching import REAL_MLX, Batches, batches, envelopes, write_lines, write_prompts
from support.call import call
from support.tiny_model import CHATML, TinyOptions, scripted_model, tiny_model

GREEDY = ("--temperature", "0", "--max-tokens", "12")
SYSTEM = ("--system", "You answer in one word, whatever you are asked, and never explain anything.")
PROMPTS = {f"q{number}": "Tell me " + "about it " * (number * 7 % 5) + str(number) for number in range(12)}
TEXT = "The capital of France is Paris. 🦊"
SAME = ("prompt", "response", "reasoning", "finish_reason", "tokens_generated")


@pytest.fixture
def batch_of(tmp_path, isolated_cache):
    """Make a batch of PROMPTS, or of others, for a model."""

    def make(model: Path, prompts=PROMPTS) -> Batches:
        batch = Batches(model, tmp_path, isolated_cache.env)
        write_prompts(batch.source, prompts)
        return batch

    return make


@pytest.fixture
def scripted_batch(tmp_path, batch_of):
    return batch_of(scripted_model(tmp_path / "m", TEXT))


def said(answer):
    return {key: answer[key] for key in SAME}


def assert_same_as_single(batch, prompts, *flags):
    answers = batch.answers
    assert set(answers) == set(prompts)
    for key, prompt in prompts.items():
        alone = batch.single(prompt, *flags)
        assert said(answers[key]) == said(alone)
        assert answers[key]["usage"]["prompt_tokens"] == alone["usage"]["prompt_tokens"]


# --- the same as single runs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3", "mistral", "gemma"])
def test_a_greedy_batch_says_what_single_runs_say(tmp_path, batch_of, model_type):
    batch = batch_of(tiny_model(tmp_path / "m", TinyOptions(model_type=model_type, eos_in_tokenizer=None)))
    result = batch("--json", "--batch-size", "5", *GREEDY, *SYSTEM)
    assert (result.code, result.data["answered"], result.data["failed"]) == (0, 12, 0)
    assert_same_as_single(batch, PROMPTS, *GREEDY, *SYSTEM)
    # What the stand-ins say depends on the last token alone.
    assert len({answer["response"] for answer in batch.answers.values()}) > 6 or not REAL_MLX


@pytest.mark.mlx_real
@pytest.mark.parametrize("flags", [("--repetition-penalty", "1"), ("--presence-penalty", "1", "--logit-bias", "70=2")])
def test_processors_of_the_logits_make_no_difference_to_that(tmp_path, batch_of, flags):
    batch = batch_of(tiny_model(tmp_path / "m", TinyOptions(eos_in_tokenizer=None)))
    assert batch("--batch-size", "4", *GREEDY, *flags).code == 0
    assert_same_as_single(batch, PROMPTS, *GREEDY, *flags)


@pytest.mark.parametrize("width", ["1", "3", "32"])
def test_the_same_seed_gives_the_same_text_alone_and_in_company(tmp_path, batch_of, width):
    seeded = ("--seed", "7", "--temperature", "1.3", "--max-tokens", "12", "--top-p", "1")
    batch = batch_of(tiny_model(tmp_path / "m", TinyOptions(eos_in_tokenizer=None)))
    assert batch("--batch-size", width, *seeded).code == 0
    assert_same_as_single(batch, PROMPTS, *seeded)


def test_without_a_seed_answers_differ(tmp_path, batch_of):
    same = dict.fromkeys(range(8), "the same question")
    batch = batch_of(tiny_model(tmp_path / "m", TinyOptions(eos_in_tokenizer=None)), same)
    assert batch("--temperature", "2", "--max-tokens", "12").code == 0
    assert len({answer["response"] for answer in batch.answers.values()}) > 4


def test_stop_strings_end_each_answer_for_itself(scripted_batch):
    assert scripted_batch("--stop", "l of Fr", "--stop", "zebra").code == 0
    answers = scripted_batch.answers.values()
    assert {(answer["response"], answer["finish_reason"]) for answer in answers} == {("The capita", "stop")}
    assert_same_as_single(scripted_batch, PROMPTS, "--stop", "l of Fr")


def test_an_end_that_might_have_been_a_stop_string_is_said(scripted_batch):
    assert scripted_batch("--batch-size", "5", "--stop", ". 🦊🦊").code == 0
    assert {answer["response"] for answer in scripted_batch.answers.values()} == {TEXT}


def test_raw_prompts_without_the_chat_template(tmp_path, batch_of):
    batch = batch_of(tiny_model(tmp_path / "m", TinyOptions(eos_in_tokenizer=None)))
    assert batch("--no-chat-template", *GREEDY).code == 0
    assert_same_as_single(batch, PROMPTS, "--no-chat-template", *GREEDY)


def test_reasoning_is_apart_and_can_be_hidden(tmp_path, batch_of):
    template = CHATML + "{% if false %}<think></think>{% endif %}"
    pieces = ["<think>", "Hmm, ", "Paris.", "</think>", "\n\n", "It is ", "Lyon."]
    model = scripted_model(tmp_path / "m", pieces=pieces, options=TinyOptions(chat_template=template))
    batch = batch_of(model)
    assert batch().code == 0
    told = {(answer["reasoning"], answer["response"]) for answer in batch.answers.values()}
    assert told == {("Hmm, Paris.", "It is Lyon.")}
    batch.target.unlink()
    assert batch("--hide-reasoning").code == 0
    assert {answer["reasoning"] for answer in batch.answers.values()} == {None}


@pytest.mark.mlx_real
def test_log_probabilities_are_those_of_a_single_run(tmp_path, batch_of):
    batch = batch_of(tiny_model(tmp_path / "m", TinyOptions(eos_in_tokenizer=None)))
    flags = ("--logprobs", "2", "--temperature", "0", "--max-tokens", "4", "--repetition-penalty", "1")
    assert batch("--batch-size", "4", *flags).code == 0
    for key, prompt in list(PROMPTS.items())[:4]:
        alone, together = batch.single(prompt, *flags)["logprobs"], batch.answers[key]["logprobs"]
        assert [token["token_id"] for token in together] == [token["token_id"] for token in alone]
        for left, right in zip(together, alone):
            assert left["logprob"] == pytest.approx(right["logprob"], abs=1e-3)
            assert [top["token_id"] for top in left["top"]] == [top["token_id"] for top in right["top"]]


@pytest.mark.mlx_real
def test_structured_output_holds_for_every_line(tmp_path, batch_of):
    pytest.importorskip("llguidance")
    batch = batch_of(tiny_model(tmp_path / "m"))
    flags = ("--choices", "yes,no,perhaps", "--temperature", "1.5", "--seed", "3")
    assert batch("--batch-size", "5", *flags).code == 0
    for key, answer in batch.answers.items():
        assert answer["parsed"] == answer["response"] == batch.single(PROMPTS[key], *flags)["parsed"]
        assert answer["parsed"] in ("yes", "no", "perhaps")


@pytest.mark.mlx_real
def test_a_line_that_is_not_what_was_asked_for_is_an_error_of_that_line(tmp_path, batch_of):
    pytest.importorskip("llguidance")
    batch = batch_of(tiny_model(tmp_path / "m", TinyOptions(eos_in_tokenizer=None)))
    result = batch("--json", "--regex", "[a-z]{40}", "--max-tokens", "5")
    assert (result.code, result.data["failed"], result.data["answered"]) == (1, 12, 0)
    for error in batch.answers.values():
        assert error["type"] == "structured_output_failed"
        assert error["detail"]["finish_reason"] == "length"


# --- the lines --------------------------------------------------------------------------------------------------------


def test_each_line_is_an_envelope_that_names_its_prompt(scripted_batch):
    assert scripted_batch().code == 0
    lines = envelopes(scripted_batch.target)
    assert sorted(line["data"]["id"] for line in lines) == sorted(PROMPTS)
    assert all(line["data"]["prompt"] == PROMPTS[line["data"]["id"]] for line in lines)


def test_ids_keep_their_kind(scripted_batch):
    write_prompts(scripted_batch.source, {7: "seven", "7": "also seven", "ä b/c": "text"})
    assert scripted_batch().code == 0
    assert {key: answer["prompt"] for key, answer in scripted_batch.answers.items()} == {
        7: "seven",
        "7": "also seven",
        "ä b/c": "text",
    }


def test_messages_are_a_conversation_and_the_system_text_is_for_prompts_only(scripted_batch):
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "and now?"},
    ]
    write_lines(scripted_batch.source, [{"id": 1, "messages": chat}, {"id": 2, "prompt": "and now?"}])
    assert scripted_batch().code == 0
    plain = scripted_batch.answers
    scripted_batch.target.unlink()
    assert scripted_batch("--system", "Be kind.").code == 0
    told = scripted_batch.answers
    assert plain[1]["prompt"] == plain[2]["prompt"] == "and now?"
    assert told[1]["usage"]["prompt_tokens"] == plain[1]["usage"]["prompt_tokens"]
    assert told[2]["usage"]["prompt_tokens"] > plain[2]["usage"]["prompt_tokens"]


def test_a_conversation_in_a_line_is_read_as_the_template_has_it(tmp_path, batch_of):
    batch = batch_of(tiny_model(tmp_path / "m", TinyOptions(eos_in_tokenizer=None)))
    system, question = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}
    write_lines(batch.source, [{"id": 1, "messages": [system, question]}, {"id": 2, "prompt": "something else"}])
    assert batch(*GREEDY).code == 0
    assert said(batch.answers[1]) == said(batch.single("hi", "--system", "Be brief.", *GREEDY))


def test_blank_lines_a_byte_order_mark_and_windows_line_ends_are_no_prompts(scripted_batch):
    scripted_batch.source.write_bytes(b'\xef\xbb\xbf{"id": 1, "prompt": "a"}\r\n\r\n  \n{"id": 2, "prompt": "b"}')
    assert scripted_batch().code == 0
    assert set(scripted_batch.answers) == {1, 2}


def test_a_file_without_prompts_is_a_batch_of_none(scripted_batch):
    scripted_batch.source.write_text("\n")
    result = scripted_batch("--json")
    assert (result.code, result.data["total"], envelopes(scripted_batch.target)) == (0, 0, [])


# --- single lines that fail -------------------------------------------------------------------------------------------


def test_a_prompt_that_is_too_long_fails_alone(scripted_batch):
    write_prompts(scripted_batch.source, {1: "short", 2: "long " * 400, 3: "short too"})
    result = scripted_batch("--json")
    assert (result.code, result.error["type"]) == (1, "batch_incomplete")
    assert result.error["message"] == "1 of 3 prompts failed"
    assert result.error["hint"] == f"jq -c 'select(.error).error' {scripted_batch.target}"
    counts = {key: result.data[key] for key in ("total", "answered", "failed", "skipped", "remaining")}
    assert counts == {"total": 3, "answered": 2, "failed": 1, "skipped": 0, "remaining": 0}
    answers = scripted_batch.answers
    assert answers[2]["type"] == "context_length_exceeded"
    assert answers[2]["context_length"] == 256 < answers[2]["prompt_tokens"]
    assert answers[1]["response"] == answers[3]["response"] == TEXT


def test_a_template_that_refuses_fails_the_lines_that_it_refuses(tmp_path, batch_of):
    template = "{% if messages|length > 1 %}{{ raise_exception('one message only') }}{% endif %}" + CHATML
    batch = batch_of(scripted_model(tmp_path / "m", TEXT, TinyOptions(chat_template=template)))
    turn = {"role": "user", "content": "hi"}
    write_lines(batch.source, [{"id": 1, "messages": [turn, turn]}, {"id": 2, "messages": [turn]}])
    assert batch().code == 1
    assert batch.answers[1]["type"] == "generation_failed" and "one message only" in batch.answers[1]["message"]
    assert batch.answers[2]["response"] == TEXT


# --- what the batch says ----------------------------------------------------------------------------------------------


def test_the_summary_in_json(scripted_batch):
    result = scripted_batch("--json", "--batch-size", "4")
    assert result.stderr == ""
    data = result.data
    assert list(data) == [
        "model", "input", "output", "total", "answered", "failed", "skipped", "remaining", "batch_size", "usage",
        "generation_time_s", "tokens_per_second",
    ]  # fmt: skip
    answers = scripted_batch.answers.values()
    for key in ("prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens"):
        assert data["usage"][key] == sum(answer["usage"][key] for answer in answers)
    assert (data["input"], data["output"]) == (str(scripted_batch.source), str(scripted_batch.target))
    assert data["batch_size"] == (4 if batches() else 1)
    assert data["tokens_per_second"] > 0


def test_the_summary_for_people(scripted_batch):
    write_prompts(scripted_batch.source, {1: "short", 2: "long " * 400, 3: "short too"})
    assert scripted_batch().code == 1
    again = scripted_batch()
    line = (
        f"run: {scripted_batch.model} — 3 prompts: 0 answered, 1 failed, 2 answered before → {scripted_batch.target}\n"
    )
    assert (again.code, again.stdout) == (1, line)
    assert again.stderr.startswith("error: 1 of 3 prompts failed\n")


def test_progress_is_drawn_on_a_terminal_and_leaves_no_trace(scripted_batch):
    shown = scripted_batch(terminal=True, width=100)
    assert "12 of 12 prompts" in shown.stderr
    assert shown.stderr.endswith("\r\x1b[K")
    assert "12 answered" in shown.stdout
    scripted_batch.target.unlink()
    narrow = scripted_batch(terminal=True, width=30).stderr.split("\r\x1b[K")
    assert "12 of 12 prompts" in narrow[-2] and max(map(len, narrow)) < 30
    scripted_batch.target.unlink()
    quiet = scripted_batch("--quiet", terminal=True, width=100)
    assert quiet.stderr == ""


# --- usage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--stream-json"], "--stream-json"),
        (["--draft-model", "x"], "--draft-model"),
        (["--prompt-cache", "x"], "--prompt-cache"),
        (["--batch-size", "0"], "--batch-size"),
        (["--batch-size", "5000"], "--batch-size"),
        (["--max-tokens", "0"], "--max-tokens"),
        (["--keep-context", "rotate"], "--keep-context"),
        (["--system", "x", "--no-chat-template"], "--system"),
    ],
)
def test_what_makes_no_sense_in_a_batch_is_refused_by_name(scripted_batch, flags, named):
    result = scripted_batch("--json", *flags) if "--stream-json" not in flags else scripted_batch(*flags)
    assert result.code == 2
    assert named in (result.error["message"] if result.json else result.stdout)
    assert not scripted_batch.target.exists()


def test_a_prompt_beside_a_file_of_prompts_is_refused(scripted_batch):
    result = scripted_batch("hello", "--json")
    assert (result.code, "a prompt" in result.error["message"]) == (2, True)


@pytest.mark.parametrize(("missing", "given"), [("--output", "--input"), ("--input", "--output")])
def test_one_file_needs_the_other(scripted_batch, missing, given):
    for value in ("x.jsonl", "-"):
        result = call("run", str(scripted_batch.model), given, value, "--json", env=scripted_batch.env)
        assert (result.code, result.error["type"]) == (2, "CommandError")
    assert missing in call("run", "m", given, "x.jsonl", "--json", env=scripted_batch.env).error["message"]


def test_a_batch_size_without_a_batch_is_refused(scripted_batch):
    result = call("run", str(scripted_batch.model), "hi", "--batch-size", "4", "--json", env=scripted_batch.env)
    assert (result.code, "--input" in result.error["message"]) == (2, True)


def test_a_model_that_does_not_exist_is_found_out_first(tmp_path, isolated_cache):
    batch = Batches(Path("nobody/nothing"), tmp_path, isolated_cache.env)
    write_prompts(batch.source, PROMPTS)
    assert batch("--json").error["type"] == "model_not_found"
    assert not batch.target.exists()


# --- the process ------------------------------------------------------------------------------------------------------


def test_the_program_runs_a_batch(scripted_batch):
    command = [sys.executable, "-m", "mlxk2", *scripted_batch.command("--json")]
    env = {**os.environ, **scripted_batch.env}
    child = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert (child.returncode, child.stderr) == (0, "")
    assert json.loads(child.stdout)["data"]["answered"] == 12
    assert len(scripted_batch.answers) == 12
