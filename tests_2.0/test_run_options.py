"""Options of `run` that change how the model is loaded, remembered and sampled, through the front door."""

from __future__ import annotations

import json
import math

import jsonschema
import pytest
from support.call import SCHEMA, call
from support.random_models import random_model
from support.tiny_model import TinyOptions, scripted_model, tiny_model

from mlxk2.inspection.versions import installed_version

pytest.importorskip("mlx.nn", reason="the stand-ins know few options")


GREEDY = ("--temperature", "0", "--repetition-penalty", "1")


@pytest.fixture
def ask(isolated_cache):
    def run(model, *argv, prompt="What is it?", code=0, **options):
        result = call("run", str(model), prompt, "--json", *argv, env=isolated_cache.env, **options)
        assert result.code == code, result.stdout
        return result.data if code == 0 else result.error

    run.env = isolated_cache.env
    return run


@pytest.fixture
def tiny(tmp_path):
    return tiny_model(tmp_path / "tiny", TinyOptions(eos_in_tokenizer=None))


# --- sampling -----------------------------------------------------------------------------------------------------


def test_a_bias_forbids_and_forces_tokens(ask, tiny):
    chosen = ask(tiny, *GREEDY, "--max-tokens", "1", "--logprobs", "0")["logprobs"][0]["token_id"]
    flags = (*GREEDY, "--max-tokens", "3", "--logprobs", "0")
    without = ask(tiny, *flags, "--logit-bias", f"{chosen}=-100")["logprobs"]
    assert chosen not in [entry["token_id"] for entry in without]
    forced = ask(tiny, *flags, "--logit-bias", '{"42": 100}')["logprobs"]
    assert [entry["token_id"] for entry in forced] == [42, 42, 42]


@pytest.mark.parametrize(
    ("bias", "word"),
    [
        ("x=1", "ID=X"),
        ("5", "ID=X"),
        ("5=much", "ID=X"),
        ("{", "ID=X"),
        ('{"1": ' + "[" * 5000, "ID=X"),
        ("[1]", "ID=X"),
        ("-1=5", "token id"),
        ("5=101", "-100"),
        ("5=nan", "-100"),
        ("99999999=5", "no token 99999999"),
    ],
)
def test_a_bias_that_would_hurt_is_a_usage_error(ask, tiny, bias, word):
    error = ask(tiny, f"--logit-bias={bias}", code=2)
    assert (error["type"], word in error["message"]) == ("CommandError", True), error


def test_logprobs_are_those_of_the_tokens_that_were_said(ask, tiny):
    data = ask(tiny, *GREEDY, "--max-tokens", "5", "--logprobs", "3")
    assert len(data["logprobs"]) == data["tokens_generated"] == 5
    for entry in data["logprobs"]:
        top = entry["top"]
        assert len(top) == 3
        # Greedy: what was said is the likeliest.
        assert (top[0]["token_id"], top[0]["logprob"]) == (entry["token_id"], entry["logprob"])
        assert sorted((choice["logprob"] for choice in top), reverse=True) == [choice["logprob"] for choice in top]
        assert sum(math.exp(choice["logprob"]) for choice in top) <= 1.0001


def test_logprobs_show_tokens_as_they_stand_in_the_text(ask, tmp_path):
    path = scripted_model(tmp_path / "m", pieces=["Hello", " big", " world"], options=TinyOptions(spm=True))
    data = ask(path, "--logprobs", "0")
    assert [entry["token"] for entry in data["logprobs"]] == ["Hello", " big", " world"]
    assert all(entry["top"] == [] and entry["logprob"] <= 0 for entry in data["logprobs"])


def test_logprobs_show_parts_of_a_character_as_text(ask, tmp_path):
    path = scripted_model(tmp_path / "m", pieces=["so ", b"\xf0\x9f", b"\x98\x80"])
    data = ask(path, "--logprobs", "1")
    assert [entry["token"] for entry in data["logprobs"]][:2] == ["so ", "\ufffd"]
    assert data["logprobs"][1]["top"][0]["token"] == "\ufffd"


@pytest.mark.parametrize("flags", [("--logprobs", "21"), ("--logprobs", "-1")])
def test_logprobs_have_a_limit(ask, tiny, flags):
    assert "--logprobs" in ask(tiny, *flags, code=2)["message"]


def test_logprobs_without_json_are_a_usage_error(tiny, isolated_cache):
    result = call("run", str(tiny), "hi", "--logprobs", "1", env=isolated_cache.env)
    assert (result.code, "--json" in result.stderr) == (2, True)


def test_penalties_count_what_was_said_and_not_the_prompt(ask, tmp_path):
    """A model that would say one token for ever: each penalty turns it away from it once it was said, never before."""
    path = scripted_model(tmp_path / "m", pieces=["again ", "other "], repeat=True)
    tiny = tiny_model(tmp_path / "tiny", TinyOptions(eos_in_tokenizer=None, seed=3))
    flags = (*GREEDY, "--max-tokens", "40", "--logprobs", "0")

    def ids(model, *more):
        return [entry["token_id"] for entry in ask(model, *flags, *more)["logprobs"]]

    plain = ids(tiny)
    assert ids(tiny, "--presence-penalty", "2")[0] == ids(tiny, "--frequency-penalty", "2")[0] == plain[0]
    # The more it costs, the fewer repetitions are left; negative penalties make for more.
    assert len(set(ids(tiny, "--frequency-penalty", "2"))) > len(set(plain))
    assert len(set(ids(tiny, "--frequency-penalty", "-2"))) <= len(set(plain))
    # Logits of a thousand do not mind.
    assert ids(path, "--presence-penalty", "2", "--frequency-penalty", "2") == ids(path)


@pytest.mark.parametrize("flag", ["--presence-penalty", "--frequency-penalty"])
@pytest.mark.parametrize("value", ["2.1", "-2.1", "nan", "inf"])
def test_penalties_out_of_range_are_refused(ask, tiny, flag, value):
    assert flag in ask(tiny, f"{flag}={value}", code=2)["message"]


def test_the_same_seed_says_the_same_in_every_process_and_after_other_seeds(ask, tiny):
    flags = ("--temperature", "1.5", "--max-tokens", "20", "--seed")
    texts = [ask(tiny, *flags, seed)["response"] for seed in ("1", "2", "1", str(2**64 - 1))]
    assert texts[0] == texts[2]
    assert len(set(texts)) == 3


def test_neighbouring_seeds_have_nothing_in_common(ask, tiny):
    """Every token as likely as any other: what is said is what was drawn."""
    flags = ("--temperature", "100", "--top-p", "1", "--max-tokens", "30", "--logprobs", "0", "--seed")
    streams = [[entry["token_id"] for entry in ask(tiny, *flags, seed)["logprobs"]] for seed in ("7", "8", "9")]
    pairs = [set(zip(ids, ids[1:], ids[2:])) for ids in streams]
    assert not pairs[0] & pairs[1] and not pairs[1] & pairs[2]


# --- the KV cache -------------------------------------------------------------------------------------------------


def test_cache_options_that_the_model_ignores_are_errors(ask, tmp_path):
    gemma = random_model(tmp_path / "g", "gemma3_text")
    error = ask(gemma, "--kv-bits", "4", code=1)
    assert (error["type"], "--kv-bits" in error["message"]) == ("incompatible_model", True)
    llama = random_model(tmp_path / "l", "llama")
    assert "--max-kv-size" in ask(llama, "--max-kv-size", "64", code=1)["message"]
    assert "8 dimensions" in ask(llama, "--kv-bits", "4", code=1)["message"]
    assert ask(random_model(tmp_path / "q", "qwen3"), "--max-kv-size", "64", "--max-tokens", "90")["response"]


@pytest.mark.parametrize(
    "flags", [("--kv-bits", "5"), ("--max-kv-size", "3"), ("--kv-bits", "4", "--max-kv-size", "64")]
)
def test_cache_options_that_mean_nothing_are_usage_errors(ask, tiny, flags):
    assert ask(tiny, *flags, code=2)["type"] == "CommandError"


# --- prompt cache -------------------------------------------------------------------------------------------------

LONG = "A long document. " * 20


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "mamba", "qwen3_next", "falcon_h1"])
def test_a_prompt_cache_is_used_by_the_next_run(ask, tmp_path, kind):
    if kind == "falcon_h1" and installed_version("mlx-lm").startswith("0.29."):
        pytest.skip("mlx-lm 0.29 writes caches of several parts a layer as it cannot read them")
    model, file = random_model(tmp_path / kind, kind), tmp_path / "prompt.cache"
    flags = (*GREEDY, "--max-tokens", "6")
    plain = ask(model, *flags, prompt=LONG)
    first = ask(model, *flags, "--prompt-cache", str(file), prompt=LONG)
    again = ask(model, *flags, "--prompt-cache", str(file), prompt=LONG)
    assert plain["response"] == first["response"] == again["response"]
    assert first["usage"]["cached_tokens"] == 0
    assert again["usage"]["cached_tokens"] >= again["usage"]["prompt_tokens"] - 30
    assert [path.name for path in tmp_path.iterdir() if "prompt" in path.name] == ["prompt.cache"]


def test_a_prompt_cache_serves_another_question_on_the_same_text(ask, tmp_path):
    model, file = random_model(tmp_path / "m", "llama"), tmp_path / "p"
    ask(model, "--system", LONG, "--prompt-cache", str(file), "--max-tokens", "2", prompt="One?")
    data = ask(model, *GREEDY, "--system", LONG, "--prompt-cache", str(file), "--max-tokens", "6", prompt="Two?")
    assert data["usage"]["cached_tokens"] > len(LONG) // 2
    assert data["response"] == ask(model, *GREEDY, "--system", LONG, "--max-tokens", "6", prompt="Two?")["response"]


def test_a_prompt_cache_of_another_model_or_of_other_options_is_a_miss(ask, tmp_path):
    file = tmp_path / "p"
    flags = ("--prompt-cache", str(file), "--max-tokens", "2")
    wide = {"head_dim": 32, "hidden_size": 128}
    one, two = (random_model(tmp_path / str(seed), "qwen3", seed=seed, config=wide) for seed in (1, 2))
    ask(one, *flags)
    assert ask(two, *flags)["usage"]["cached_tokens"] == 0
    assert ask(two, *flags)["usage"]["cached_tokens"] > 0
    assert ask(two, *flags, "--kv-bits", "8")["usage"]["cached_tokens"] == 0
    assert ask(two, *flags, "--kv-bits", "8")["usage"]["cached_tokens"] > 0


def test_a_prompt_cache_of_another_mlx_lm_or_a_damaged_one_is_a_miss(ask, tmp_path):
    model, file = random_model(tmp_path / "m", "llama"), tmp_path / "p"
    flags = (*GREEDY, "--prompt-cache", str(file), "--max-tokens", "4")
    text = ask(model, *flags)["response"]
    raw = file.read_bytes()
    start = raw.index(b'.mlx_lm":"') + len(b'.mlx_lm":"')
    file.write_bytes(raw[:start] + b"9" + raw[start + 1 :])
    assert (ask(model, *flags)["usage"]["cached_tokens"], file.read_bytes() == raw) == (0, True)
    file.write_bytes(raw.replace(b"KVCache", b"BadName"))
    data = ask(model, *flags)
    assert (data["response"], data["usage"]["cached_tokens"]) == (text, 0)


def test_a_model_that_was_changed_in_place_is_another_model(ask, tmp_path):
    import mlx.core as mx

    model, flags = random_model(tmp_path / "m", "llama"), ("--prompt-cache", str(tmp_path / "p"), "--max-tokens", "2")
    ask(model, *flags)
    weights = mx.load(str(model / "model.safetensors"))
    name = "model.layers.1.self_attn.v_proj.weight"
    mx.save_safetensors(str(model / "model.safetensors"), {**weights, name: -weights[name]}, metadata={"format": "mlx"})
    assert ask(model, *flags)["usage"]["cached_tokens"] == 0


@pytest.mark.parametrize("ids", ["[1, 2, 3]", "[1e999]", "[" * 5000, '["x"]', "{}", "[-1]"])
def test_what_a_prompt_cache_says_of_itself_is_not_believed(ask, tmp_path, ids):
    """Right in everything but the ids that it claims to hold: a miss or an error, never another answer."""
    import mlx.core as mx

    model, file = random_model(tmp_path / "m", "llama"), tmp_path / "p.safetensors"
    flags = (*GREEDY, "--prompt-cache", str(file), "--max-tokens", "4")
    text = ask(model, *flags)["response"]
    arrays, metadata = mx.load(str(file), return_metadata=True)
    key = next(key for key in metadata if key.endswith(".ids"))
    mx.save_safetensors(str(file), arrays, {**metadata, key: ids})
    result = call("run", str(model), "What is it?", "--json", *flags, env=ask.env)
    if result.code == 0:
        assert (result.data["response"], result.data["usage"]["cached_tokens"]) == (text, 0)
    else:
        assert result.error["type"] == "CommandError"


def test_a_prompt_cache_behind_a_link_stays_behind_it_and_is_for_its_owner_alone(ask, tmp_path):
    model, link = random_model(tmp_path / "m", "llama"), tmp_path / "link"
    link.symlink_to(tmp_path / "real")
    ask(model, "--prompt-cache", str(link), "--max-tokens", "2")
    assert link.is_symlink()
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o600
    assert "--prompt-cache" in ask(model, "--prompt-cache", "", code=2)["message"]


def test_what_is_no_prompt_cache_is_never_replaced(ask, tmp_path):
    model = random_model(tmp_path / "m", "llama")
    weights = model / "model.safetensors"
    before = weights.read_bytes()
    text = tmp_path / "notes.txt"
    text.write_text("mine")
    for path in (weights, text, model):
        error = ask(model, "--prompt-cache", str(path), code=2)
        assert "no prompt cache" in error["message"]
    assert (weights.read_bytes(), text.read_text()) == (before, "mine")
    assert "mkdir" in ask(model, "--prompt-cache", str(tmp_path / "no" / "p"), code=2)["hint"]


# --- a draft model, an adapter ------------------------------------------------------------------------------------


@pytest.mark.parametrize("guesses", ["1", "4"])
def test_a_draft_model_changes_nothing_about_the_answer(ask, tmp_path, guesses):
    model = random_model(tmp_path / "m", "llama", seed=1)
    drafts = [random_model(tmp_path / "d", "qwen3", seed=2), model]
    flags = (*GREEDY, "--max-tokens", "30")
    plain = ask(model, *flags)
    for draft in drafts:
        data = ask(model, *flags, "--draft-model", str(draft), "--num-draft-tokens", guesses)
        assert (data["response"], data["finish_reason"]) == (plain["response"], plain["finish_reason"])
    penal = ("--frequency-penalty", "1", "--repetition-penalty", "1.2", "--max-tokens", "30", "--temperature", "0")
    assert ask(model, *penal, "--draft-model", str(drafts[0]))["response"] == ask(model, *penal)["response"]


def test_a_draft_of_a_larger_padded_vocabulary_is_held_to_what_both_know(ask, tmp_path):
    model = random_model(tmp_path / "m", "llama", seed=1)
    size = json.loads((model / "config.json").read_text())["vocab_size"]
    draft = random_model(tmp_path / "d", "llama", seed=2)
    padded = tiny_model(tmp_path / "p", TinyOptions(eos_in_tokenizer=None, config={"vocab_size": size}))
    flags = (*GREEDY, "--max-tokens", "20")
    assert ask(model, *flags, "--draft-model", str(padded))["response"] == ask(model, *flags)["response"]
    assert ask(draft, *flags, "--draft-model", str(model))["response"] == ask(draft, *flags)["response"]


def test_a_draft_model_that_cannot_be_one_is_refused(ask, tmp_path):
    model = random_model(tmp_path / "m", "llama")
    spm = tiny_model(tmp_path / "spm", TinyOptions(spm=True))
    assert "vocabulary" in ask(model, "--draft-model", str(spm), code=1)["message"]
    recurrent = random_model(tmp_path / "r", "mamba")
    error = ask(model, "--draft-model", str(recurrent), code=1)
    assert (error["type"], "--draft-model" in error["hint"]) == ("incompatible_model", True)
    assert ask(model, "--draft-model", "nobody/nothing", code=1)["type"] == "model_not_found"
    assert "--num-draft-tokens" in ask(model, "--draft-model", str(model), "--num-draft-tokens", "0", code=2)["message"]
    assert "--prompt-cache" in ask(model, "--draft-model", str(model), "--prompt-cache", "x", code=2)["message"]


@pytest.fixture
def adapter(tmp_path):
    """A LoRA over one layer of a tiny llama that changes its answers."""
    import mlx.core as mx

    folder = tmp_path / "adapter"
    folder.mkdir()
    parameters = {"rank": 4, "scale": 40.0, "dropout": 0.0, "keys": ["self_attn.q_proj", "self_attn.v_proj"]}
    config = {"fine_tune_type": "lora", "num_layers": 1, "lora_parameters": parameters}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    weights = {}
    for name, size in (("q_proj", 32), ("v_proj", 16)):
        at = f"model.layers.1.self_attn.{name}."
        weights |= {at + "lora_a": mx.ones((32, 4)) * 0.1, at + "lora_b": mx.ones((4, size)) * 0.1}
    mx.save_safetensors(str(folder / "adapters.safetensors"), weights)
    return folder


def test_an_adapter_is_loaded_over_the_model(ask, tmp_path, adapter):
    model = random_model(tmp_path / "m", "llama")
    plain = ask(model, *GREEDY, "--max-tokens", "8")["response"]
    assert ask(model, *GREEDY, "--max-tokens", "8", "--adapter-path", str(adapter))["response"] != plain


@pytest.mark.parametrize(
    "name",
    ["model.layers.7.self_attn.q_proj.lora_a", "model.embed_tokens.weight", "model.layers.1.self_attn.q_proj.lora_a"],
)
def test_an_adapter_with_a_tensor_of_another_place_or_shape_is_refused(ask, tmp_path, adapter, name):
    """What is not refused here is taken by some versions of mlx-lm, which then read beyond their arrays."""
    import mlx.core as mx

    weights = mx.load(str(adapter / "adapters.safetensors"))
    mx.save_safetensors(str(adapter / "adapters.safetensors"), {**weights, name: mx.ones((1, 32))})
    error = ask(random_model(tmp_path / "m", "llama"), "--adapter-path", str(adapter), code=1)
    assert (error["type"], name in error["message"]) == ("incompatible_model", True)


def test_an_adapter_that_is_none_or_does_not_fit_is_refused(ask, tmp_path, adapter):
    model = random_model(tmp_path / "m", "llama")
    assert "adapter_config.json" in ask(model, "--adapter-path", str(tmp_path), code=2)["message"]
    (adapter / "adapter_config.json").write_text("{}")
    assert "adapter" in ask(model, "--adapter-path", str(adapter), code=1)["message"]


# --- events as lines ----------------------------------------------------------------------------------------------


def lines_of(result):
    assert result.stdout.endswith("\n")
    return [json.loads(line) for line in result.stdout.splitlines()]


def check_event(line):
    jsonschema.Draft7Validator({"definitions": SCHEMA["definitions"], **SCHEMA["definitions"]["event"]}).validate(line)


def test_stream_json_tells_every_piece_and_the_answer_last(tmp_path, isolated_cache):
    text = "The capital of France is Paris. 🦊"
    model = scripted_model(tmp_path / "m", text)
    result = call("run", str(model), "hi", "--stream-json", env=isolated_cache.env)
    *events, answer = lines_of(result)
    assert (result.code, result.stderr) == (0, "")
    for line in events:
        check_event(line)
    assert [events[0]["event"], events[-1]["event"]] == ["started", "finished"]
    assert "".join(line["text"] for line in events if line["event"] == "delta") == text == answer["data"]["response"]
    assert {line["channel"] for line in events if line["event"] == "delta"} == {"answer"}
    assert events[-1]["usage"] == answer["data"]["usage"]
    assert (list(answer), answer["status"]) == (["status", "command", "data", "error"], "success")


def test_stream_json_keeps_reasoning_on_a_channel_of_its_own(tmp_path, isolated_cache):
    model = scripted_model(tmp_path / "m", pieces=["<think>", "Hmm, ", "Paris.", "</think>", "\n\n", "It is ", "Lyon."])
    template = json.loads((model / "tokenizer_config.json").read_text())
    template["chat_template"] += "{# <think> </think> #}"
    (model / "tokenizer_config.json").write_text(json.dumps(template))
    *events, answer = lines_of(call("run", str(model), "hi", "--stream-json", env=isolated_cache.env))
    said = {"reasoning": "", "answer": ""}
    for line in events:
        check_event(line)
        if line["event"] == "delta":
            said[line["channel"]] += line["text"]
    assert said == {"reasoning": "Hmm, Paris.", "answer": "It is Lyon."}
    assert (answer["data"]["response"], answer["data"]["reasoning"]) == ("It is Lyon.", "Hmm, Paris.")
    hidden = lines_of(call("run", str(model), "hi", "--stream-json", "--hide-reasoning", env=isolated_cache.env))
    assert not any(line.get("channel") == "reasoning" for line in hidden)
    assert hidden[-1]["data"]["reasoning"] is None
    piped = call("run", str(model), "hi", env=isolated_cache.env)
    assert piped.stdout == "It is Lyon.\n"
    shown = call("run", str(model), "hi", env=isolated_cache.env, terminal=True)
    assert shown.stdout == "\x1b[2mHmm, Paris.\n\n\x1b[0mIt is Lyon.\n"


def test_stream_json_tells_a_long_prefill(tmp_path, isolated_cache):
    model = random_model(tmp_path / "m", "llama")
    prompt = "word " * 60
    result = call("run", str(model), prompt, "--stream-json", "--max-tokens", "1", env=isolated_cache.env)
    progress = [line for line in lines_of(result) if line.get("event") == "progress"]
    for line in progress:
        check_event(line)
    assert [line["done"] for line in progress] == sorted(line["done"] for line in progress)
    assert progress and {line["unit"] for line in progress} == {"tokens"}


def test_an_error_is_the_last_line(tmp_path, isolated_cache):
    model = scripted_model(tmp_path / "m", "x", TinyOptions(context_length=30))
    result = call("run", str(model), "q" * 100, "--stream-json", env=isolated_cache.env)
    assert (result.code, lines_of(result)[-1]["error"]["type"]) == (1, "context_length_exceeded")


def test_an_error_after_shown_text_begins_on_a_line_of_its_own(tmp_path, isolated_cache):
    pytest.importorskip("llguidance")
    model = scripted_model(tmp_path / "m", pieces=["<think>", "Hmm", "</think>", '"on', "and", "on"], repeat=True)
    config = json.loads((model / "tokenizer_config.json").read_text())
    config["chat_template"] += "{# <think> </think> #}"
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    flags = ("--json-schema", '{"type": "string"}', "--max-tokens")
    for budget, shown in (("2", "\x1b[2mHmm\x1b[0m\n"), ("5", '\x1b[2mHmm\n\n\x1b[0m"onand\n')):
        result = call("run", str(model), "hi", *flags, budget, env=isolated_cache.env, terminal=True)
        assert (result.code, result.stdout) == (1, shown)


def thinking_model(path, *pieces, repeat=False):
    model = scripted_model(path, pieces=["<think>", "Hmm", *pieces], repeat=repeat)
    config = json.loads((model / "tokenizer_config.json").read_text())
    config["chat_template"] += "{# <think> </think> #}"
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    return model


def test_a_thought_that_takes_the_whole_budget_is_told(tmp_path, isolated_cache):
    model = thinking_model(tmp_path / "m", " well", repeat=True)
    result = call("run", str(model), "hi", "--max-tokens", "5", env=isolated_cache.env)
    assert (result.code, result.stdout) == (0, "\n")
    assert "the thought was cut off" in result.stderr
    data = call("run", str(model), "hi", "--max-tokens", "5", "--json", env=isolated_cache.env).data
    assert "the thought was cut off" in data["warnings"][0]


@pytest.mark.parametrize(
    ("flags", "reason", "hint"),
    [
        (("--max-tokens", "1"), "cut off after 1 tokens", "--max-tokens"),
        (("--stop", "d"), "stop string 'd'", "--stop"),
    ],
)
def test_a_program_gets_a_constrained_answer_whole_or_not_at_all(tmp_path, isolated_cache, flags, reason, hint):
    pytest.importorskip("llguidance")
    model = scripted_model(tmp_path / "m", pieces=["r", "e", "d"])
    whole = call("run", str(model), "hi", "--choices", "red,blue", env=isolated_cache.env)
    assert (whole.code, whole.stdout) == (0, "red\n")
    broken = call("run", str(model), "hi", "--choices", "red,blue", *flags, env=isolated_cache.env)
    assert (broken.code, broken.stdout) == (1, "")
    assert reason in broken.stderr and hint in broken.stderr


def test_an_answer_is_not_lost_for_a_prompt_cache_that_cannot_be_written(tmp_path, isolated_cache):
    model, file = random_model(tmp_path / "m", "llama"), tmp_path / "p"
    # It looks like a file that is still to come, until somebody writes it.
    file.symlink_to(tmp_path / "missing" / "p")
    data = call(
        "run", str(model), "hi", "--max-tokens", "3", "--prompt-cache", str(file), "--json", env=isolated_cache.env
    ).data
    assert data["tokens_generated"] == 3
    assert "could not be written" in data["warnings"][0]
    shown = call("run", str(model), "hi", "--max-tokens", "3", "--prompt-cache", str(file), env=isolated_cache.env)
    assert shown.code == 0 and "warning: the prompt cache" in shown.stderr


def test_another_models_prompt_cache_is_replaced_and_that_is_told(ask, tmp_path):
    one, two = (random_model(tmp_path / str(seed), "llama", seed=seed) for seed in (1, 2))
    flags = ("--prompt-cache", str(tmp_path / "p"), "--max-tokens", "2")
    assert "warnings" not in ask(one, *flags)
    assert "another model" in ask(two, *flags)["warnings"][0]
    assert "warnings" not in ask(two, *flags)


def test_what_is_missing_is_named_and_what_is_not_is_not(isolated_cache):
    result = call("run", "--json", env=isolated_cache.env)
    assert (result.code, result.error["message"]) == (2, "the following arguments are required: model")


def test_guesses_without_a_guesser_are_a_usage_error(ask, tiny):
    assert "--draft-model" in ask(tiny, "--num-draft-tokens", "2", code=2)["message"]


@pytest.mark.parametrize(
    "flags", [("--choices", '["a"'), ("--choices", "[1,2]"), ("--json-schema", ""), ("--json-schema", "[]")]
)
def test_structures_that_are_none_are_usage_errors(ask, tiny, flags):
    pytest.importorskip("llguidance")
    error = ask(tiny, *flags, code=2)
    assert flags[0] in error["message"]
