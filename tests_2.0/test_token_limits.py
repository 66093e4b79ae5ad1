"""Budgets: the context length, what is left for the answer, and what fits into memory."""

from __future__ import annotations

import re

import pytest
from conftest_runner import chat, raw
from support.call import call
from support.tiny_model import TinyOptions, scripted_model, tiny_model

from mlxk2 import errors
from mlxk2.inspection.context import context_length
from mlxk2.operations.run import RunOptions, prepare
from mlxk2.runner.limits import PREFILL_HEADROOM_BYTES, MemoryDemand, check_memory, memory_limit_bytes, token_budget
from mlxk2.runner.request import CacheOptions, EngineOptions, Sampling
from mlxk2.store.model_ref import WORKSPACE, ModelRef

ENDLESS = ["and ", "so ", "on "]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"max_position_embeddings": 2048, "seq_len": 5}, 2048),
        ({"n_positions": 1024}, 1024),
        ({"context_length": 512}, 512),
        ({"max_sequence_length": 256}, 256),
        ({"seq_len": 128}, 128),
        ({"text_config": {"max_position_embeddings": 77}}, 77),
        ({"n_positions": 5, "text_config": {"max_position_embeddings": 77}}, 5),
        ({"max_position_embeddings": None, "n_positions": 9}, 9),
        ({"max_position_embeddings": True, "n_positions": 9}, 9),
        ({"max_position_embeddings": -1, "n_positions": 9}, 9),
        ({"max_position_embeddings": 10**30, "n_positions": 9}, 9),
        ({"max_position_embeddings": "4096"}, 4096),
        ({"max_position_embeddings": 4096.0}, 4096),
        ({"max_position_embeddings": float("nan")}, None),
        ({"max_position_embeddings": [1], "text_config": "x"}, None),
        ({}, None),
    ],
)
def test_the_context_length_is_the_first_usable_entry(config, expected):
    assert context_length(config) == expected


def test_the_default_budget_is_what_the_prompt_leaves(scripted, tell):
    path = scripted(pieces=ENDLESS, options=TinyOptions(context_length=64), repeat=True)
    told = tell(path, raw("abcd"))
    assert told.answer.usage.completion_tokens == 60
    assert told.finished.reason == "length"


def test_without_a_stated_context_4096_is_assumed():
    assert token_budget(96, None, None) == 4000


def test_max_tokens_ends_the_answer_with_length(scripted, tell):
    told = tell(scripted(pieces=ENDLESS, repeat=True), chat(max_tokens=4))
    assert (told.answer.text, told.finished.reason) == ("and so on and ", "length")
    assert told.answer.usage.completion_tokens == 4


def test_an_answer_that_ends_with_its_last_token_is_stopped_not_cut(scripted, tell):
    path = scripted(pieces=["one ", "two"])
    assert tell(path, chat(max_tokens=3)).finished.reason == "stop"
    assert tell(path, chat(max_tokens=2)).finished.reason == "length"


def test_max_tokens_beyond_the_context_is_clipped_to_it(scripted, tell):
    path = scripted(pieces=ENDLESS, options=TinyOptions(context_length=16), repeat=True)
    told = tell(path, raw("abcd", max_tokens=10**12))
    assert (told.answer.usage.completion_tokens, told.finished.reason) == (12, "length")


@pytest.mark.parametrize("length", [8, 9])
def test_a_prompt_that_leaves_no_room_is_refused_with_both_numbers(scripted, tell, length):
    path = scripted("x", TinyOptions(context_length=8))
    with pytest.raises(errors.ContextLengthExceeded, match=f"{length} tokens.* 8") as caught:
        tell(path, raw("q" * length))
    assert caught.value.extra == {"prompt_tokens": length, "context_length": 8}


def test_a_prompt_that_fits_by_one_token_gets_it(scripted, tell):
    path = scripted(pieces=ENDLESS, options=TinyOptions(context_length=8), repeat=True)
    assert tell(path, raw("q" * 7)).answer.text == "and "


@pytest.mark.parametrize("value", [0, -1, True])
def test_max_tokens_below_one_is_a_usage_error(value):
    with pytest.raises(errors.UsageError, match="--max-tokens"):
        chat(max_tokens=value)


def test_memory_that_does_not_suffice_is_refused_with_the_figures():
    demand = MemoryDemand(weights_bytes=3 * 10**9, kv_bytes=2 * 10**9, headroom_bytes=10**9)
    check_memory(demand, 6 * 10**9)
    check_memory(demand, None)
    with pytest.raises(errors.InsufficientMemory, match=r"6\.00 GB .*3\.00 GB.*2\.00 GB.*5\.00 GB") as caught:
        check_memory(demand, 5 * 10**9)
    assert caught.value.extra["required_bytes"] == 6 * 10**9


def test_the_limit_is_a_share_of_this_machines_memory():
    limit = memory_limit_bytes()
    assert limit is not None and limit > 10**8


def test_the_command_line_reports_a_prompt_that_does_not_fit(tmp_path, isolated_cache):
    path = scripted_model(tmp_path / "m", "x", TinyOptions(context_length=30))
    result = call("run", str(path), "q" * 100, "--json", env=isolated_cache.env)
    assert (result.code, result.error["type"]) == (1, "context_length_exceeded")
    assert result.error["context_length"] == 30 and result.error["prompt_tokens"] > 100


def test_the_command_line_refuses_a_budget_of_nothing(tmp_path, isolated_cache):
    path = scripted_model(tmp_path / "m", "x")
    result = call("run", str(path), "q", "--max-tokens", "0", "--json", env=isolated_cache.env)
    assert (result.code, result.error["type"]) == (2, "CommandError")


def planned(tmp_path, limit, **options):
    """Plan a run of a tiny model whose KV cache takes 1 KiB a token, on a machine with `limit` bytes to spare."""
    config = {"num_key_value_heads": 4, "head_dim": 8, "torch_dtype": "float32", "num_hidden_layers": 4}
    path = tiny_model(tmp_path / "m", TinyOptions(context_length=10**6, config=config))
    run_options = RunOptions("hi", None, Sampling(), **options)
    return prepare(ModelRef("./m", path, None, WORKSPACE), run_options, memory_limit=limit)


ROOM = PREFILL_HEADROOM_BYTES + 3 * 2**20


def test_what_does_not_fit_is_refused_with_what_would(tmp_path):
    with pytest.raises(errors.InsufficientMemory) as caught:
        planned(tmp_path, ROOM, max_tokens=4000)
    hint = caught.value.hint
    fitting = int(re.search(r"(\d+) tokens fit", hint)[1])
    assert 2000 < fitting < 4000
    assert "--kv-bits 8 fits" in hint and "--force" in hint
    planned(tmp_path, ROOM, max_tokens=fitting)
    planned(tmp_path, ROOM, max_tokens=4000, engine=EngineOptions(cache=CacheOptions(kv_bits=8)))
    planned(tmp_path, ROOM, max_tokens=4000, engine=EngineOptions(cache=CacheOptions(max_kv_size=1000)))
    planned(tmp_path, ROOM, max_tokens=4000, force=True)


def test_weights_that_do_not_fit_leave_no_way_but_another_model(tmp_path):
    with pytest.raises(errors.InsufficientMemory) as caught:
        planned(tmp_path, 1000, max_tokens=10)
    assert "smaller or more quantized model" in caught.value.hint
    assert "--kv-bits" not in caught.value.hint and "--max-tokens" not in caught.value.hint


def test_a_draft_model_needs_memory_too(tmp_path):
    draft = ModelRef("./d", tiny_model(tmp_path / "d", TinyOptions(context_length=10**6)), None, WORKSPACE)
    alone, beside = planned(tmp_path, None), planned(tmp_path, None, draft=draft)
    assert beside.memory.demand(100).weights_bytes > alone.memory.demand(100).weights_bytes
    assert beside.memory.demand(100).kv_bytes > alone.memory.demand(100).kv_bytes
