"""`mlxk2 run` through the front door: answers, streams, JSON, standard input, and every refusal."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from support.call import call
from support.tiny_model import TinyOptions, scripted_model

from mlxk2 import errors
from mlxk2.operations.run import RunOptions, prepare
from mlxk2.runner.request import Sampling
from mlxk2.store.model_ref import WORKSPACE, ModelRef

TEXT = "The capital of France is Paris. 🦊"
PAYLOAD = [
    "model",
    "prompt",
    "response",
    "reasoning",
    "finish_reason",
    "usage",
    "tokens_generated",
    "generation_time_s",
    "time_to_first_token_s",
    "tokens_per_second",
]


@pytest.fixture
def model(tmp_path):
    return scripted_model(tmp_path / "oracle", TEXT)


@pytest.fixture
def run(model, isolated_cache):
    return lambda *argv, **options: call("run", str(model), *argv, env=isolated_cache.env, **options)


# --- answers ----------------------------------------------------------------------------------------------------


def test_json_is_the_contracts_payload(run):
    data = run("What is it?", "--json").data
    assert list(data) == PAYLOAD
    assert (data["prompt"], data["response"], data["reasoning"]) == ("What is it?", TEXT, None)
    assert data["finish_reason"] == "stop"
    usage = data["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert data["tokens_generated"] == usage["completion_tokens"] > 1
    assert usage["cached_tokens"] == 0
    assert 0 < data["time_to_first_token_s"] <= data["generation_time_s"]


def test_streaming_and_batch_print_the_same(run):
    streamed, whole = run("hi"), run("hi", "--no-stream")
    assert streamed.code == whole.code == 0
    assert streamed.stdout == whole.stdout == TEXT + "\n"
    assert streamed.stderr == whole.stderr == ""


def test_json_leaves_stderr_quiet(run):
    assert run("hi", "--json").stderr == ""


def test_verbose_tells_speed_on_stderr_only(run):
    told = run("hi", "--verbose")
    assert told.stdout == TEXT + "\n"
    assert "tokens/s" in told.stderr


def test_the_prompt_comes_from_standard_input(run):
    assert run("-", "--json", stdin="from a pipe").data["prompt"] == "from a pipe"


def test_text_and_standard_input_are_joined_by_a_blank_line(run):
    assert run("Summarize:", "-", "--json", stdin="a page").data["prompt"] == "Summarize:\n\na page"


def test_stop_may_be_repeated_and_cuts_before_the_text(run):
    data = run("hi", "--json", "--stop", "zebra", "--stop", "l of Fr").data
    assert (data["response"], data["finish_reason"]) == ("The capita", "stop")


def test_max_tokens_ends_with_length(run):
    data = run("hi", "--json", "--max-tokens", "2").data
    assert (data["finish_reason"], data["tokens_generated"]) == ("length", 2)
    assert TEXT.startswith(data["response"])


def test_system_text_makes_the_prompt_longer(run):
    plain, told = run("hi", "--json").data, run("hi", "--json", "--system", "Be brief.").data
    assert told["usage"]["prompt_tokens"] > plain["usage"]["prompt_tokens"]


def test_without_the_chat_template_the_model_reads_the_prompt_alone(run):
    assert run("hi", "--json", "--no-chat-template").data["usage"]["prompt_tokens"] == 2


def test_all_sampling_flags_together(run):
    flags = "--temperature 0.9 --top-p 0.8 --top-k 999999 --min-p 0.05 --repetition-penalty 1.3 --seed 5"
    assert run("hi", "--json", *flags.split()).data["response"] == TEXT


# --- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--top-p", "3"], "--top-p"),
        (["--temperature", "nan"], "--temperature"),
        (["--repetition-penalty", "-1"], "--repetition-penalty"),
        (["--seed", "-5"], "--seed"),
        (["--max-tokens", "0"], "--max-tokens"),
        (["--stop", ""], "--stop"),
        (["--system", "x", "--no-chat-template"], "--system"),
    ],
)
def test_flags_out_of_range_are_usage_errors_that_name_the_flag(run, flags, named):
    result = run("hi", "--json", *flags)
    assert (result.code, result.error["type"]) == (2, "CommandError")
    assert named in result.error["message"]


def test_an_unknown_model_is_not_found(isolated_cache):
    result = call("run", "nobody/nothing", "hi", "--json", env=isolated_cache.env)
    assert (result.code, result.error["type"]) == (1, "model_not_found")


def break_weights(path):
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def break_config(path):
    (path / "config.json").write_text("{")


def remove_tokenizer(path):
    (path / "tokenizer.json").unlink()


@pytest.mark.parametrize("damage", [break_weights, break_config, remove_tokenizer])
def test_a_broken_model_is_refused(run, model, damage):
    damage(model)
    result = run("hi", "--json")
    assert (result.code, result.error["type"]) == (1, "model_unhealthy")
    assert result.data is None


@pytest.mark.parametrize("change", [{"model_type": "abacus"}, {"model_file": "evil.py"}])
def test_a_model_that_cannot_run_is_refused(run, model, change):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, **change}))
    (model / "evil.py").write_text("raise SystemExit('ran')")
    result = run("hi", "--json")
    assert (result.code, result.error["type"]) == (1, "incompatible_model")


def test_a_model_that_does_not_fit_is_refused_with_the_figures(model):
    ref = ModelRef("./oracle", model, None, WORKSPACE)
    with pytest.raises(errors.InsufficientMemory, match="weights") as caught:
        prepare(ref, RunOptions("hi", None, Sampling()), memory_limit=1000)
    assert caught.value.extra["weights_bytes"] > 1000 == caught.value.extra["available_bytes"]


def test_a_budget_whose_kv_cache_does_not_fit_is_refused(tmp_path):
    path = scripted_model(tmp_path / "m", TEXT, TinyOptions(context_length=2**31 - 1))
    ref = ModelRef("./m", path, None, WORKSPACE)
    prepare(ref, RunOptions("hi", None, Sampling()), memory_limit=10**9)
    with pytest.raises(errors.InsufficientMemory, match="KV cache"):
        prepare(ref, RunOptions("hi", None, Sampling(), max_tokens=2**30), memory_limit=10**9)


def test_a_template_that_fails_is_an_error_of_the_generation(tmp_path, isolated_cache):
    refusing = TinyOptions(chat_template="{{ raise_exception('System role not supported') }}")
    path = scripted_model(tmp_path / "m", TEXT, refusing)
    result = call("run", str(path), "hi", "--system", "x", "--json", env=isolated_cache.env)
    assert (result.code, result.error["type"]) == (1, "generation_failed")
    assert "System role not supported" in result.error["message"]
    assert "--system" in result.error["hint"]


def test_a_prompt_that_is_no_text_is_an_error_not_a_crash(run):
    result = run("caf\udce9", "--json")
    assert (result.code, result.error["type"]) == (2, "CommandError")
    assert "UTF-8" in result.error["message"]


# --- the process ------------------------------------------------------------------------------------------------


def process(model, env, *argv, **options):
    command = [sys.executable, "-m", "mlxk2", "run", str(model), "hi", *argv]
    return subprocess.Popen(command, env={**os.environ, **env}, text=True, **options)


def test_a_closed_pipe_ends_the_program_silently(tmp_path, isolated_cache):
    path = scripted_model(
        tmp_path / "m", pieces=["and ", "so ", "on "], repeat=True, options=TinyOptions(context_length=10**6)
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    child = process(path, isolated_cache.env, **pipes)
    try:
        assert child.stdout.read(6) == "and so"
        child.stdout.close()
        assert child.stderr.read() == ""
        child.wait(timeout=60)
    finally:
        child.kill()
        child.stderr.close()
    assert child.returncode not in (-6, 134)


def test_the_process_answers_and_ends_with_zero(model, isolated_cache):
    for _ in range(3):
        child = process(model, isolated_cache.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = child.communicate(timeout=120)
        assert (child.returncode, out, err) == (0, TEXT + "\n", "")
