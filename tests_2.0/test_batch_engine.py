"""What a batch does inside: many architectures, memory that is too small, rows that fail, requests taken when needed."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from conftest_runner import drain, files_of, raw
from support.batching import Batches, needs_batches, write_prompts
from support.random_models import CONFIGS, random_model
from support.tiny_model import TinyOptions, scripted_model, tiny_model

from mlxk2 import driving, errors
from mlxk2.events import Warned
from mlxk2.operations.batch import BatchFiles, plan_batch, run_batch
from mlxk2.operations.run import RunOptions
from mlxk2.runner.answer import Answer
from mlxk2.runner.batch import BatchRun, Done
from mlxk2.runner.request import GenerationRequest, Message, Sampling
from mlxk2.runner.runner import MLXRunner
from mlxk2.store.model_ref import WORKSPACE, ModelRef

pytest.importorskip("mlx.nn", reason="the stand-ins answer one after the other")

GREEDY = ("--temperature", "0", "--max-tokens", "30")
# Longer than the windows of the models that have some.
SYSTEM = ("--system", "You answer in one word, whatever you are asked, and you never ever explain anything.")
PROMPTS = {number: "Tell me " + "about it " * (number * 7 % 5) + str(number) for number in range(9)}


class Space:
    """Room for so many positions in all; notes what it was asked."""

    def __init__(self, positions: int = 10**9, *, largest: int = 10**9, expected: int | None = None) -> None:
        self.positions = positions
        self._largest = largest
        self._expected = expected

    def expected(self, prompt) -> int:
        return self._expected or len(prompt.ids) + prompt.max_tokens

    def rows(self, positions: int) -> int:
        return self.positions // positions

    def check(self, positions: int) -> None:
        if positions > self._largest:
            raise errors.InsufficientMemory(f"{positions} positions do not fit")


def requests(count, sampling=None, **options):
    """Different questions, each a chat of its own."""
    sampling = sampling or Sampling(temperature=0)
    for number in range(count):
        text = f"{'word ' * (number % 4)}{number}"
        yield number, GenerationRequest(messages=(Message("user", text),), sampling=sampling, **options)


def outcomes(run) -> dict:
    """Run a batch to its end."""
    return {event.key: event.outcome for event in run.run() if isinstance(event, Done)}


def alone(path, given) -> dict:
    """What the same requests get without a batch."""
    with MLXRunner(files_of(path)) as runner:
        return {key: drain(runner.generate(request)).answer for key, request in given}


def told(answers) -> dict:
    return {key: (answer.text, answer.finish_reason, answer.usage.completion_tokens) for key, answer in answers.items()}


@pytest.fixture
def endless(tmp_path):
    """A random model that never ends an answer by itself."""
    return tiny_model(tmp_path / "m", TinyOptions(eos_in_tokenizer=None, context_length=2048))


@pytest.fixture
def batch_of(tmp_path, isolated_cache):
    def make(model, prompts=PROMPTS) -> Batches:
        batch = Batches(model, tmp_path, isolated_cache.env)
        write_prompts(batch.source, prompts)
        return batch

    return make


# --- architectures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_type", "system"),
    [*((name, SYSTEM) for name in CONFIGS), *((name, ()) for name in ("llama", "gemma3_text", "lfm2"))],
)
def test_every_kind_of_memory_says_what_single_runs_say(tmp_path, batch_of, model_type, system):
    batch = batch_of(random_model(tmp_path / "m", model_type))
    flags = (*GREEDY, *system)
    assert batch("--batch-size", "1", *flags).code == 0
    alone = batch.answers
    if any("response" not in answer for answer in alone.values()):
        pytest.skip("this mlx-lm cannot run it alone either")
    batch.target.unlink()
    assert batch("--batch-size", "4", *flags).code == 0
    assert {key: answer["response"] for key, answer in batch.answers.items()} == {
        key: answer["response"] for key, answer in alone.items()
    }
    assert alone[0]["response"] == batch.single(PROMPTS[0], *flags)["response"]
    # A random state space forgets what it has read.
    assert len({answer["response"] for answer in alone.values()}) > 1 or model_type == "mamba"


@needs_batches
@pytest.mark.parametrize("model_type", ["mamba", "gemma2"])
def test_an_architecture_whose_batches_are_wrong_is_found_out(tmp_path, batch_of, model_type):
    """mlx-lm's mamba reads what fills up the shorter prompts, and its gemma2 takes a mask of rows for one of heads."""
    batch = batch_of(random_model(tmp_path / "m", model_type))
    result = batch("--json", *GREEDY)
    assert (result.data["answered"], result.data["batch_size"], result.stderr) == (9, 1, "")
    for key, prompt in PROMPTS.items():
        assert batch.answers[key]["response"] == batch.single(prompt, *GREEDY)["response"]


@needs_batches
def test_people_are_told_why_it_is_one_prompt_after_the_other(tmp_path, batch_of):
    batch = batch_of(random_model(tmp_path / "m", "mamba"))
    warning = "warning: one prompt after the other: mlx-lm's batches are wrong for this architecture\n"
    assert batch(*GREEDY).stderr == warning
    batch.target.unlink()
    shown = batch(*GREEDY, terminal=True, width=100).stderr
    assert warning in shown and shown.endswith("\r\x1b[K")
    batch.target.unlink()
    assert batch(*GREEDY, "--quiet").stderr == ""


@pytest.mark.parametrize(
    ("model_type", "config", "flags"),
    [
        ("qwen3", {"head_dim": 32}, ("--kv-bits", "8")),
        ("qwen3", {}, ("--max-kv-size", "32")),
    ],
)
def test_caches_of_one_sequence_only_are_used_one_after_the_other(tmp_path, batch_of, model_type, config, flags):
    batch = batch_of(random_model(tmp_path / "m", model_type, config=config))
    result = batch(*GREEDY, *flags)
    assert result.code == 0
    assert "one prompt after the other" in result.stderr
    for key, prompt in PROMPTS.items():
        assert batch.answers[key]["response"] == batch.single(prompt, *GREEDY, *flags)["response"]


def test_a_flag_that_the_models_cache_ignores_is_refused_and_nothing_is_written(tmp_path, batch_of):
    batch = batch_of(random_model(tmp_path / "m", "gemma3_text"))
    result = batch("--json", "--kv-bits", "8")
    assert (result.code, result.error["type"]) == (1, "incompatible_model")
    assert "--kv-bits" in result.error["message"]
    assert not batch.target.exists()


# --- what prompts begin with alike ------------------------------------------------------------------------------------


def test_a_beginning_that_prompts_share_is_read_once(endless, runner_of):
    system = Message("system", "Answer like a pirate would, in one sentence. " * 10)
    given = [
        (number, GenerationRequest(messages=(system, Message("user", str(number))), max_tokens=4))
        for number in range(6)
    ]
    answers = outcomes(BatchRun(runner_of(endless), given, Space(), 3))
    cached = [answers[number].usage.cached_tokens for number in range(6)]
    assert cached[0] == 0
    assert min(cached[2:]) > len(system.content)
    assert all(answer.usage.cached_tokens < answer.usage.prompt_tokens for answer in answers.values())


def test_beginnings_that_change_are_read_anew(endless, runner_of):
    """Groups of prompts, one prompt that is the beginning of others, and prompts that are quite the same."""
    long = "Once upon a time there was a knife that could talk to people, " * 4
    other = "Far away from there a spoon lived all by itself in a drawer, " * 4
    texts = [
        long + "1",
        long + "2",
        long,
        other + "1",
        other + "2",
        other,
        other,
        other + "and",
        "short",
        "short",
        long,
    ]
    given = [(place, raw(text, max_tokens=9)) for place, text in enumerate(texts)]
    answers = outcomes(BatchRun(runner_of(endless), given, Space(), 4))
    assert told(answers) == told(alone(endless, given))
    assert sum(answer.usage.cached_tokens for answer in answers.values()) > len(long) * 2


# --- memory -----------------------------------------------------------------------------------------------------------


@needs_batches
def test_no_more_are_answered_at_a_time_than_fit(endless):
    """Room for the weights and the KV cache of two such prompts, not of three."""
    row = 2 * 2 * 2 * 8 * 4 * 256
    ref = ModelRef("./m", endless, None, WORKSPACE)
    source, target = endless.parent / "prompts.jsonl", endless.parent / "answers.jsonl"
    write_prompts(source, PROMPTS)
    weights = sum(path.stat().st_size for path in endless.glob("*.safetensors"))
    options = RunOptions("", None, Sampling(temperature=0), max_tokens=5)
    limit = weights + 128 * 2**20 + 2 * row + row // 2
    plan = plan_batch(ref, options, BatchFiles(source, target), memory_limit=limit)
    result = driving.drain(run_batch(plan), None)
    assert (result.answered, result.failed, result.batch_size) == (9, 0, 2)


def test_a_prompt_that_does_not_fit_alone_fails_and_the_others_do_not(endless, runner_of):
    given = [*requests(4, max_tokens=5), ("big", raw("x" * 500, max_tokens=5))]
    answers = outcomes(BatchRun(runner_of(endless), given, Space(largest=300), 4))
    assert isinstance(answers.pop("big"), errors.InsufficientMemory)
    assert all(isinstance(answer, Answer) for answer in answers.values()) and len(answers) == 4


class Measured:
    """A model that notes how many positions the rows of each step take."""

    def __init__(self, model) -> None:
        self._model = model
        self.positions: list[int] = []

    def __call__(self, ids, cache=None):
        if ids.shape[1] == 1:
            self.positions.append(ids.shape[0] * (cache[0].size() + 1))
        return self._model(ids, cache=cache)

    def __getattr__(self, name):
        return getattr(self._model, name)


@needs_batches
def test_answers_that_grow_beyond_what_was_expected_make_the_youngest_wait(endless, runner_of):
    from mlxk2.runner import mlx_backend

    engine = mlx_backend.load(endless)
    engine.model = Measured(engine.model)
    given = [(number, raw(f"Tell me about {number}", max_tokens=100)) for number in range(8)]
    run = BatchRun(runner_of(endless, load_engine=lambda: engine), given, Space(400, expected=80), 5)
    measured = engine.model.positions
    answers = outcomes(run)
    # Room for five rows of 80 positions and later for three of 113; the engine is a step or two ahead of what is known.
    assert run.most_rows == 5
    assert 390 < max(measured) <= 400 + 5 * 3
    assert told(answers) == told(alone(endless, given))


def test_a_seed_holds_for_those_that_had_to_start_again(endless, runner_of):
    seeded = Sampling(temperature=1.5, seed=11)
    given = [(number, raw(f"Tell me about {number}", max_tokens=100, sampling=seeded)) for number in range(8)]
    answers = outcomes(BatchRun(runner_of(endless), given, Space(400, expected=80), 5))
    assert told(answers) == told(alone(endless, given))


# --- requests ---------------------------------------------------------------------------------------------------------


@needs_batches
def test_requests_are_taken_when_there_is_room_and_not_before(endless, runner_of):
    taken, done = [], 0

    def source() -> Iterator:
        for key, request in requests(60, max_tokens=3):
            taken.append(key)
            yield key, request

    for event in BatchRun(runner_of(endless), source(), Space(), 4).run():
        assert isinstance(event, Done)
        # Four at a time are answered, up to four have been done in the same step, and one may wait.
        assert len(taken) - done <= 4 + 4 + 1
        done += 1
    assert (done, len(taken)) == (60, 60)


@needs_batches
def test_short_answers_leave_and_others_join(tmp_path, runner_of, endless):
    """Answers of very different lengths: the number of steps is far below that of one width after the other."""
    lengths = [40, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]
    given = [(place, raw(f"text {place}", max_tokens=length)) for place, length in enumerate(lengths)]
    order = [event.key for event in BatchRun(runner_of(endless), given, Space(), 3).run()]
    assert sorted(order) == list(range(12))
    assert order[-1] == 0


def test_processors_and_samplers_of_rows_are_their_own(endless, runner_of):
    """Rows with and without a sampler, penalties, and biases, that leave at different times."""
    kinds = (
        Sampling(temperature=0, repetition_penalty=1),
        Sampling(temperature=1.2, seed=5),
        Sampling(temperature=0, repetition_penalty=1.3, presence_penalty=1),
        Sampling(temperature=0.9, seed=6, repetition_penalty=1, logit_bias={70: 3.0}),
    )
    given = [
        (place, raw(f"text {place}", max_tokens=2 + place * 5 % 13, sampling=kinds[place % 4])) for place in range(16)
    ]
    answers = outcomes(BatchRun(runner_of(endless), given, Space(), 6))
    assert told(answers) == told(alone(endless, given))


# --- failures ---------------------------------------------------------------------------------------------------------


class Flawed:
    """A model that fails on one token, and with more than `most` rows; it counts how often."""

    def __init__(self, model, token: int, most: int = 10**6) -> None:
        self._model = model
        self._token = token
        self._most = most
        self.failures = 0

    def __call__(self, ids, *positional, **named):
        if self._token in ids.flatten().tolist() or ids.shape[0] > self._most:
            self.failures += 1
            raise ValueError("this is too much for the model")
        return self._model(ids, *positional, **named)

    def __getattr__(self, name):
        return getattr(self._model, name)


@pytest.fixture
def flawed_runner(endless, runner_of):
    """Make a runner whose model is flawed."""

    def make(token: int, most: int = 10**6) -> MLXRunner:
        from mlxk2.runner import mlx_backend

        def load():
            engine = mlx_backend.load(endless)
            engine.model = Flawed(engine.model, token, most)
            return engine

        return runner_of(endless, load_engine=load)

    return make


def token_of(path, text: str) -> int:
    return int(json.loads((path / "tokenizer.json").read_text())["model"]["vocab"][text])


def test_a_request_that_the_model_cannot_take_fails_alone(endless, flawed_runner):
    given = [
        *requests(6, max_tokens=5),
        ("bad", raw("so ~ is it", max_tokens=5)),
        *((k + 6, r) for k, r in requests(6)),
    ]
    given = [(key, GenerationRequest(**{**vars(request), "max_tokens": 5})) for key, request in given]
    run = BatchRun(flawed_runner(token_of(endless, "~")), given, Space(), 8)
    answers = outcomes(run)
    bad = answers.pop("bad")
    assert isinstance(bad, errors.GenerationFailed) and "too much for the model" in bad.message
    assert told(answers) == told(alone(endless, [pair for pair in given if pair[0] != "bad"]))


@needs_batches
def test_where_the_company_is_too_much_fewer_are_answered_at_a_time(endless, flawed_runner):
    given = list(requests(40, max_tokens=5))
    runner = flawed_runner(-1, most=3)
    events = list(BatchRun(runner, given, Space(), 8).run())
    assert told({event.key: event.outcome for event in events if isinstance(event, Done)}) == told(
        alone(endless, given)
    )
    (warning,) = [event.message for event in events if isinstance(event, Warned)]
    assert "one by one" in warning and "this is too much for the model" in warning
    # With eight, with four, and no longer with two.
    assert runner.engine().model.failures == 2


def test_a_model_that_fails_always_is_an_error_of_every_line(flawed_runner):
    answers = outcomes(BatchRun(flawed_runner(-1, most=0), requests(5, max_tokens=5), Space(), 4))
    assert len(answers) == 5
    assert all(isinstance(answer, errors.GenerationFailed) for answer in answers.values())


def test_a_failing_template_and_a_prompt_that_is_too_long_do_not_stop_the_others(endless, runner_of):
    given = [(0, raw("x" * 5000)), *((key + 1, request) for key, request in requests(3, max_tokens=3))]
    answers = outcomes(BatchRun(runner_of(endless), given, Space(), 4))
    assert isinstance(answers.pop(0), errors.ContextLengthExceeded)
    assert all(isinstance(answer, Answer) for answer in answers.values())


def test_an_interrupt_ends_it_and_the_model_answers_as_before(endless, runner_of):
    runner = runner_of(endless)
    given = list(requests(6, max_tokens=20))
    events = BatchRun(runner, given, Space(), 3).run()
    next(events)
    with pytest.raises(KeyboardInterrupt):
        events.throw(KeyboardInterrupt())
    assert told(outcomes(BatchRun(runner, given, Space(), 3))) == told(alone(endless, given))


def test_a_runner_that_answered_a_batch_answers_single_requests_too(endless, runner_of):
    runner = runner_of(endless)
    outcomes(BatchRun(runner, requests(6, max_tokens=5), Space(), 3))
    given = list(requests(3, max_tokens=9))
    assert told({key: drain(runner.generate(request)).answer for key, request in given}) == told(alone(endless, given))


# --- the machine ------------------------------------------------------------------------------------------------------


@needs_batches
def test_the_limit_of_wired_memory_is_left_as_it_is(endless, runner_of, monkeypatch):
    import mlx.core as mx

    asked = []
    told_size = {**mx.device_info(), "max_recommended_working_set_size": 2**30}
    monkeypatch.setattr(mx, "device_info", lambda: told_size)
    monkeypatch.setattr(mx, "set_wired_limit", asked.append)
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    answers = outcomes(BatchRun(runner_of(endless), requests(5, max_tokens=3), Space(), 3))
    assert (len(answers), asked) == (5, [])
    assert mx.set_wired_limit == asked.append


def test_a_width_of_one_is_one_after_the_other_without_a_warning(endless, runner_of):
    run = BatchRun(runner_of(endless), requests(4, max_tokens=3), Space(), 1)
    events = list(run.run())
    assert not any(isinstance(event, Warned) for event in events)
    assert (len(events), run.most_rows) == (4, 1)


def test_characters_are_whole_in_any_company(tmp_path, runner_of):
    text = "Grüße 🦊👩‍👩‍👧 und 漢字!"
    # Bytes that are tokens of their own where no byte comes twice, else two together.
    path = scripted_model(tmp_path / "s", pieces=[text.encode()[place : place + 3] for place in range(0, 42, 3)])
    answers = outcomes(BatchRun(runner_of(path), requests(9), Space(), 4))
    assert {answer.text for answer in answers.values()} == {text}
