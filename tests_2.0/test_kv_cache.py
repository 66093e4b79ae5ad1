"""What a model has read is kept from one request to the next, and the answers are those of a model that forgets."""

from __future__ import annotations

import sys
from itertools import count

import pytest
from conftest_runner import drain, files_of, raw
from hypothesis import given, settings
from hypothesis import strategies as st
from support.random_models import APPENDING, CONFIGS, random_model

from mlxk2.inspection.versions import installed_version
from mlxk2.runner.request import CacheOptions, EngineOptions, GenerationRequest, Message, Sampling
from mlxk2.runner.runner import MLXRunner

pytest.importorskip("mlx.nn", reason="the stand-ins have one kind of memory")


GREEDY = Sampling(temperature=0, repetition_penalty=1.3, frequency_penalty=0.5)
SAMPLED = Sampling(temperature=1.2, seed=7)
WORDS = ("What is the capital of France?", "And of Spain, please, with a reason?", "Thanks.", "One more: Portugal!")


@pytest.fixture(scope="module")
def model(request, tmp_path_factory):
    if request.param == "llama4" and not installed_version("mlx-lm").startswith("0.32."):
        pytest.skip("mlx-lm before 0.32 drops what it still needs of chunks shorter than 256 tokens")
    return random_model(tmp_path_factory.mktemp("models") / request.param, request.param)


def conversation(*turns):
    """Messages of alternating roles."""
    return tuple(Message("assistant" if place % 2 else "user", text) for place, text in enumerate(turns))


def ask(runner, messages, sampling=GREEDY, **options):
    options.setdefault("max_tokens", 9)
    return drain(runner.generate(GenerationRequest(messages=messages, sampling=sampling, **options))).answer


def told(answer):
    return answer.text, answer.finish_reason, answer.usage.prompt_tokens, answer.usage.completion_tokens


def forgetful(path):
    return MLXRunner(files_of(path), options=EngineOptions(reuse_cache=False))


def talk(runner, sampling):
    """Four turns, the last one again, two turns taken back and another way on, then something else altogether."""
    history, answers = (), []
    for words in WORDS:
        history = (*history, Message("user", words))
        answers.append(ask(runner, history, sampling))
        history = (*history, Message("assistant", answers[-1].text))
    answers.append(ask(runner, history[:-1], sampling))
    answers.append(ask(runner, (*history[:4], Message("user", "Another way?")), sampling))
    answers.append(ask(runner, conversation("Something else."), sampling))
    return answers


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("model", CONFIGS, indirect=True)
def test_answers_are_those_of_a_model_that_forgets(model, sampling):
    with MLXRunner(files_of(model)) as keeping, forgetful(model) as plain:
        kept, fresh = talk(keeping, sampling), talk(plain, sampling)
    assert list(map(told, kept)) == list(map(told, fresh))
    assert {answer.usage.cached_tokens for answer in fresh} == {0}


@pytest.mark.parametrize("model", CONFIGS, indirect=True)
def test_a_turn_reads_what_is_new_and_no_more(model):
    """Answers of plain letters, so that the text has the same ids when it is read again."""
    with MLXRunner(files_of(model)) as runner:
        history = conversation(WORDS[0])
        ask(runner, history)
        for words in WORDS[1:]:
            before = runner.prepare(GenerationRequest(messages=history)).ids
            history = (*history, Message("assistant", "ok"), Message("user", words))
            answer = ask(runner, history)
            # All of the turn before, but for what opened its answer.
            assert answer.usage.cached_tokens >= len(before) - len("<|im_start|>assistant\n")
            assert answer.usage.cached_tokens < answer.usage.prompt_tokens


@pytest.mark.parametrize("model", CONFIGS, indirect=True)
def test_the_same_prompt_again_is_read_once(model):
    with MLXRunner(files_of(model)) as runner:
        first = ask(runner, conversation(WORDS[0]))
        again = ask(runner, conversation(WORDS[0]))
    assert first.text == again.text
    assert again.usage.prompt_tokens - again.usage.cached_tokens <= len("<|im_start|>assistant\n")


@pytest.mark.parametrize("model", APPENDING, indirect=True)
def test_history_that_was_edited_is_read_from_the_edit_on(model):
    with MLXRunner(files_of(model)) as runner:
        ask(runner, conversation("one two three", "yes", "four"))
        answer = ask(runner, conversation("one two three", "no!", "four"))
        shared = runner.prepare(GenerationRequest(messages=conversation("one two three"))).ids
    assert answer.usage.cached_tokens == len(shared)


@pytest.mark.parametrize("model", ["llama", "gemma3_text", "lfm2"], indirect=True)
def test_an_interrupt_leaves_a_cache_that_answers_as_before(model):
    with MLXRunner(files_of(model)) as runner, forgetful(model) as plain:
        for count in (1, 2, 5):
            steps = runner.generate(GenerationRequest(messages=conversation(WORDS[0]), sampling=GREEDY))
            for _ in range(count):
                next(steps)
            steps.throw(KeyboardInterrupt())
            steps.close()
            assert told(ask(runner, conversation(WORDS[1]))) == told(ask(plain, conversation(WORDS[1])))


@pytest.mark.parametrize("model", ["llama", "gemma3_text"], indirect=True)
def test_an_interrupt_at_any_moment_of_the_cache_leaves_it_true(model):
    """Ctrl-C before every line that changes the cache, one after the other."""
    with MLXRunner(files_of(model)) as runner, forgetful(model) as plain:
        wanted = told(ask(plain, conversation(WORDS[0]), max_tokens=4))
        struck = True
        for line in count():
            ask(runner, conversation(WORDS[1]), max_tokens=4)
            struck = struck_at(line, lambda: ask(runner, conversation(WORDS[0], "so", WORDS[2]), max_tokens=2))
            assert told(ask(runner, conversation(WORDS[0]), max_tokens=4)) == wanted, f"struck before line {line}"
            if not struck:
                break
        assert line > 20


def struck_at(number, action):
    """Do `action`, with Ctrl-C before the line `number` that it runs in kv_state.py; False where it is not that long."""
    left = number

    def trace(frame, event, _):
        nonlocal left
        if not frame.f_code.co_filename.endswith("kv_state.py"):
            return trace if event == "call" else None
        if event == "line":
            left -= 1
            if left == -1:
                raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        action()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(None)
    return left < 0


@pytest.mark.parametrize("model", ["llama"], indirect=True)
def test_an_answer_left_lying_keeps_its_own_memory(model):
    with MLXRunner(files_of(model)) as runner, forgetful(model) as plain:
        left = runner.generate(GenerationRequest(messages=conversation(WORDS[0]), sampling=GREEDY, max_tokens=20))
        said = [next(left) for _ in range(4)]
        other = ask(runner, conversation(WORDS[1]))
        rest = drain(left).answer
        assert said and told(rest) == told(ask(plain, conversation(WORDS[0]), max_tokens=20))
        assert told(other) == told(ask(plain, conversation(WORDS[1])))
        assert told(ask(runner, conversation(WORDS[2]))) == told(ask(plain, conversation(WORDS[2])))


TEXTS = st.lists(st.text(alphabet="ab", min_size=1, max_size=60), min_size=2, max_size=5)


@pytest.mark.parametrize("model", ["llama", "gemma3_text", "mamba", "llama4"], indirect=True)
def test_any_prompts_one_after_the_other_are_answered_as_if_alone(model):
    with MLXRunner(files_of(model)) as runner, forgetful(model) as plain:

        @settings(max_examples=12)
        @given(TEXTS)
        def check(texts):
            for text in texts:
                request = raw(text, max_tokens=4, sampling=GREEDY)
                assert told(drain(runner.generate(request)).answer) == told(drain(plain.generate(request)).answer)

        check()


# --- what the cache is made of ------------------------------------------------------------------------------------


def bytes_of(layers):
    """What the arrays of all layers take."""
    from mlx.utils import tree_flatten

    arrays = (value for _, value in tree_flatten([layer.state for layer in layers]))
    return sum(getattr(value, "nbytes", 0) for value in arrays)


WIDE = {"head_dim": 32, "hidden_size": 128}


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_a_quantized_cache_is_smaller_and_is_kept_too(tmp_path, bits):
    path = random_model(tmp_path / "m", "qwen3", config=WIDE)
    with MLXRunner(files_of(path), options=EngineOptions(cache=CacheOptions(kv_bits=bits))) as runner:
        answer = ask(runner, conversation(*WORDS[:3]))
        size = bytes_of(runner._state.layers)
        again = ask(runner, conversation(*WORDS[:3], "so", "what?"))
    with MLXRunner(files_of(path)) as plain:
        whole = ask(plain, conversation(*WORDS[:3]))
        full = bytes_of(plain._state.layers)
    assert size <= full * (bits + 2) / 32
    assert again.usage.cached_tokens >= answer.usage.prompt_tokens - 20
    if bits == 8:
        assert answer.text[:2] == whole.text[:2]


def test_a_cache_of_fewer_positions_is_honoured_where_the_architecture_does(tmp_path):
    path = random_model(tmp_path / "m", "qwen3")
    with MLXRunner(files_of(path), options=EngineOptions(cache=CacheOptions(max_kv_size=32))) as runner:
        ask(runner, conversation(*WORDS[:3]), max_tokens=100)
        # Keys and values of two heads of eight float32 numbers.
        assert bytes_of(runner._state.layers) <= 2 * 32 * 2 * 2 * 8 * 4
