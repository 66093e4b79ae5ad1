"""`run` on the real SmolLM2-135M-Instruct: it answers, however it is asked, and a conversation reads each turn once."""

from __future__ import annotations

import json

import jsonschema
import pytest
from conftest_runner import drain, files_of
from support.call import call
from support.smollm2 import smollm2

from mlxk2.runner.request import GenerationRequest, Message, Sampling
from mlxk2.runner.runner import MLXRunner

pytestmark = [pytest.mark.mlx_real, pytest.mark.smollm2]

GREEDY = ("--temperature", "0", "--repetition-penalty", "1")
QUESTION = "What is the capital of France?"


@pytest.fixture
def ask(isolated_cache):
    return lambda *argv: call("run", str(smollm2()), *argv, *GREEDY, env=isolated_cache.env)


def test_it_answers_the_same_streamed_in_one_piece_and_as_json(ask):
    answers = {ask(QUESTION, *flags).stdout for flags in ((), ("--no-stream",))}
    assert answers == {"The capital of France is Paris.\n"}
    data = ask(QUESTION, "--json").data
    assert (data["response"], data["finish_reason"]) == ("The capital of France is Paris.", "stop")
    lines = [json.loads(line) for line in ask(QUESTION, "--stream-json").stdout.splitlines()]
    assert "".join(line["text"] for line in lines if line.get("event") == "delta") == data["response"]


@pytest.mark.parametrize("stop", ["Paris", " Paris", "capital of", "apital of Fr"])
def test_a_stop_string_is_cut_out_wherever_the_tokens_end(ask, stop):
    whole = "The capital of France is Paris."
    data = ask(QUESTION, "--json", "--stop", stop).data
    assert (data["response"], data["finish_reason"]) == (whole[: whole.index(stop)], "stop")


SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 30},
        "population": {"type": "integer", "minimum": 0, "maximum": 99999999},
        "kind": {"enum": ["capital", "village"]},
    },
    "required": ["city", "population", "kind"],
    "additionalProperties": False,
}


def test_a_json_schema_holds(ask):
    pytest.importorskip("llguidance")
    data = ask("Describe Paris as JSON.", "--json", "--json-schema", json.dumps(SCHEMA)).data
    jsonschema.validate(data["parsed"], SCHEMA)
    assert json.loads(data["response"]) == data["parsed"]


def test_the_same_seed_says_the_same(isolated_cache):
    def sampled(seed):
        flags = ("--temperature", "1", "--max-tokens", "12", "--seed", seed, "--json")
        return call("run", str(smollm2()), "Tell me a story.", *flags, env=isolated_cache.env).data["response"]

    assert sampled("1") == sampled("1") != sampled("2")


def test_a_conversation_reads_each_turn_once_and_answers_as_one_that_is_read_anew():
    files, answers, cached = files_of(smollm2()), [], []

    def reply(runner, history):
        request = GenerationRequest(messages=history, sampling=Sampling(temperature=0), max_tokens=16)
        return drain(runner.generate(request)).answer

    with MLXRunner(files) as runner:
        history = ()
        for words in (QUESTION, "And of Spain?", "Which one is larger?"):
            history = (*history, Message("user", words))
            answer = reply(runner, history)
            answers.append(answer)
            cached.append(answer.usage.cached_tokens)
            history = (*history, Message("assistant", answer.text))
    with MLXRunner(files) as plain:
        assert reply(plain, history[:-1]).text == answers[-1].text
    assert cached[0] == 0
    # All but the answer's last token, which ends it, and what the next message brings.
    assert cached[1] >= answers[0].usage.total_tokens - 1
    assert cached[2] >= answers[1].usage.total_tokens - 1


def test_a_draft_model_does_not_change_the_answer(ask):
    plain = ask(QUESTION, "--json", "--max-tokens", "20").data
    guided = ask(QUESTION, "--json", "--max-tokens", "20", "--draft-model", str(smollm2())).data
    assert guided["response"] == plain["response"]


def test_a_prompt_cache_is_read_in_the_place_of_the_prompt(ask, tmp_path):
    flags = ("--json", "--max-tokens", "8", "--prompt-cache", str(tmp_path / "p"))
    first, again = ask(QUESTION, *flags).data, ask(QUESTION, *flags).data
    assert first["response"] == again["response"]
    assert again["usage"]["cached_tokens"] == again["usage"]["prompt_tokens"] - 1
