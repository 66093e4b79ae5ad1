"""The engine process of `serve`, a real one behind pipes: batches, prefixes, memory, failures, its end."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.processes import gone, wait_until
from support.random_models import random_model
from support.running_engine import GREEDY, RunningEngine, asking, chatting
from support.tiny_model import TinyOptions, tiny_model

from mlxk2.runner.constraint import Constraint
from mlxk2.runner.request import EngineOptions, Message, Sampling
from mlxk2.server.protocol import Count, Counted, Embed, Embedded, Failed, LoadFailed, Over, Piece, Status

pytestmark = [pytest.mark.mlx_real]

ENDLESS = TinyOptions(eos_in_tokenizer=None, context_length=4096)
PROMPTS = (
    "a",
    "the cat sat on the mat",
    "one two three four five six seven eight nine ten " * 3,
    "zzz",
    "the end " * 9,
)
SYSTEM = Message("system", "You are a kind and helpful assistant of few words. " * 8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny", ENDLESS)


@pytest.fixture(scope="module")
def shared(model: Path) -> Iterator[RunningEngine]:
    """One engine for the tests that leave it as it was."""
    with RunningEngine(model) as engine:
        yield engine


class TestCompany:
    @pytest.mark.parametrize("kind", ["llama", "llama4", "gemma3_text", "deepseek_v2", "mamba", "qwen3_next"])
    def test_greedy_answers_do_not_depend_on_it(self, tmp_path: Path, kind: str) -> None:
        folder = random_model(tmp_path / kind, kind)
        requests = [asking(prompt, max_tokens=20 + 3 * place) for place, prompt in enumerate(PROMPTS)]
        with RunningEngine(folder, prefix_cache_bytes=0, max_concurrency=1) as engine:
            alone = [engine.answer(f"a{place}", request) for place, request in enumerate(requests)]
        with RunningEngine(folder) as engine:
            for place, request in enumerate(requests):
                engine.ask(f"b{place}", request)
                if place % 2:
                    engine.first_piece(f"b{place}")
            ends = engine.ends(f"b{place}" for place in range(len(requests)))
            assert all(isinstance(end, Over) for end in ends)
            assert [engine.text(f"b{place}") for place in range(len(requests))] == alone
        assert len(set(alone)) == len(alone)

    def test_seeds_are_kept_in_it(self, shared: RunningEngine) -> None:
        request = asking("hi", max_tokens=30, sampling=Sampling(temperature=1.0, seed=7))
        alone = shared.answer("seed-alone", request)
        for place in range(3):
            shared.ask(f"noise{place}", asking("hi", max_tokens=60, sampling=Sampling(temperature=1.0, seed=place)))
        assert shared.answer("seed-company", request) == alone
        shared.ends(f"noise{place}" for place in range(3))

    def test_a_request_joins_at_the_next_step(self, shared: RunningEngine) -> None:
        shared.ask("long", asking("y", max_tokens=3000))
        shared.first_piece("long")
        mark = len(shared.events)
        shared.ask("short", asking("x", max_tokens=4))
        shared.end("short")
        seen = [event for event in shared.events[mark:] if getattr(event, "id", None) in ("long", "short")]
        first = next(place for place, event in enumerate(seen) if event.id == "short")
        after = [event for event in seen[first:] if isinstance(event, Piece) and event.id == "long"]
        # Its prompt, four tokens, and what is computed ahead.
        assert len(after) <= 12
        shared.cancel("long")
        shared.status(lambda status: status.running == 0)

    def test_a_long_prompt_lets_others_go_on(self, shared: RunningEngine) -> None:
        shared.ask("stream", asking("y", max_tokens=3000))
        shared.first_piece("stream")
        mark = len(shared.events)
        shared.ask("book", asking("z" * 2000, max_tokens=2))
        shared.end("book")
        assert sum(isinstance(event, Piece) and event.id == "stream" for event in shared.events[mark:]) >= 10
        shared.cancel("stream")
        shared.status(lambda status: status.running == 0)

    def test_more_than_fit_wait_their_turn(self, model: Path) -> None:
        with RunningEngine(model, max_concurrency=2) as engine:
            for place in range(6):
                engine.ask(f"q{place}", asking(f"{place}", max_tokens=8))
            assert all(isinstance(end, Over) for end in engine.ends(f"q{place}" for place in range(6)))

    def test_a_full_queue_refuses(self, model: Path) -> None:
        with RunningEngine(model, max_concurrency=1, max_queue=1) as engine:
            engine.ask("first", asking("a", max_tokens=2000))
            engine.first_piece("first")
            engine.ask("second", asking("b", max_tokens=2))
            engine.ask("third", asking("c", max_tokens=2))
            assert engine.end("third").problem.type == "queue_full"
            engine.cancel("first")
            assert isinstance(engine.end("second"), Over)

    def test_without_a_queue_those_are_answered_that_need_not_wait(self, model: Path) -> None:
        with RunningEngine(model, max_concurrency=2, max_queue=0) as engine:
            for name in ("first", "second", "third"):
                engine.ask(name, asking("a", max_tokens=2000))
            assert engine.end("third").problem.type == "queue_full"
            assert all(isinstance(end, Over) for end in engine.ends(["first", "second"]))


class TestAnswers:
    def test_usage_and_reason_are_true(self, shared: RunningEngine) -> None:
        shared.ask("u", asking("hello", max_tokens=5))
        end = shared.end("u")
        assert (end.reason, end.usage.completion_tokens) == ("length", 5)
        assert end.usage.total_tokens == end.usage.prompt_tokens + 5
        assert shared.begun("u").prompt_tokens == end.usage.prompt_tokens

    def test_logprobs_belong_to_the_pieces(self, shared: RunningEngine) -> None:
        shared.ask("l", asking("hello", max_tokens=12, top_logprobs=2))
        shared.end("l")
        chosen = [token for event in shared.of("l") if isinstance(event, Piece) for token in event.logprobs]
        assert len(chosen) == 12
        assert all(len(token.top) == 2 and token.top[0].token_id == token.token_id for token in chosen)

    def test_token_ids_are_read_as_they_are(self, shared: RunningEngine) -> None:
        shared.send(Count("c", asking("hello")))
        assert isinstance(shared.end("c"), Counted)
        shared.ask("ids", asking(prompt_ids=(10, 11, 12), max_tokens=2))
        assert shared.end("ids").usage.prompt_tokens == 3
        shared.ask("wrong", asking(prompt_ids=(10, 99_999_999), max_tokens=2))
        assert (shared.end("wrong").problem.http_status, shared.end("wrong").problem.type) == (400, "CommandError")

    def test_a_constraint_holds_in_the_batch(self, tmp_path: Path) -> None:
        pytest.importorskip("llguidance")
        with RunningEngine(tiny_model(tmp_path / "m", TinyOptions(context_length=2048))) as engine:
            engine.ask("noise", asking("x", max_tokens=200))
            engine.ask("choice", asking("y", max_tokens=50, constraint=Constraint.choices(("yes", "no"))))
            end = engine.end("choice")
            assert engine.text("choice") in ("yes", "no")
            assert (end.reason, end.value_problem) == ("stop", None)
            schema = Constraint.json_schema('{"type": "object", "properties": {"a": {"type": "string"}}}')
            engine.ask("cut", asking("y", max_tokens=1, constraint=schema))
            assert engine.end("cut").value_problem
            engine.end("noise")

    def test_the_stop_string_is_named(self, shared: RunningEngine) -> None:
        whole = shared.answer("whole", asking("abc", max_tokens=20))
        cut = next(char for char in whole[4:] if char.isascii() and char.isprintable())
        shared.ask("cut", asking("abc", max_tokens=20, stop=(cut,)))
        end = shared.end("cut")
        assert (end.reason, end.stop) == ("stop", cut)
        assert shared.text("cut") == whole[: whole.index(cut)]


class TestPrefixes:
    def test_eight_clients_with_one_prefix_have_it_read_once(self, model: Path) -> None:
        with RunningEngine(model) as engine:
            for place in range(8):
                engine.ask(f"p{place}", chatting(SYSTEM, f"number {place}?", max_tokens=4))
            engine.ends(f"p{place}" for place in range(8))
            cached = sorted(engine.begun(f"p{place}").cached_tokens for place in range(8))
            assert cached[0] == 0
            assert cached[1] > 300
            status = engine.status()
            assert (status.prefix_hits, status.prefix_misses) == (7, 1)

    @pytest.mark.parametrize("kind", ["llama", "llama4", "gemma3_text", "mamba", "qwen3_next"])
    def test_the_next_turn_finds_its_history(self, tmp_path: Path, kind: str) -> None:
        folder = random_model(tmp_path / kind, kind)
        talk = (SYSTEM, Message("user", "tell me of the fox"))
        with RunningEngine(folder) as engine:
            said = engine.answer("one", chatting(*talk, max_tokens=10))
            further = (*talk, Message("assistant", said), Message("user", "and then?"))
            engine.ask("two", chatting(*further, max_tokens=10))
            end = engine.end("two")
            # All but how the answer was opened, what follows it, and the question.
            assert end.usage.cached_tokens >= engine.begun("one").prompt_tokens - 30
            found = engine.text("two")
        with RunningEngine(folder, prefix_cache_bytes=0) as engine:
            assert engine.answer("two", chatting(*further, max_tokens=10)) == found
            assert engine.begun("two").cached_tokens == 0

    @pytest.mark.parametrize("kind", ["gemma3_text", "mamba", "qwen3_next"])
    def test_memory_that_cannot_be_cut_is_kept_where_the_system_prompt_ends(self, tmp_path: Path, kind: str) -> None:
        with RunningEngine(random_model(tmp_path / kind, kind)) as engine:
            for place in range(4):
                engine.ask(f"p{place}", chatting(SYSTEM, f"number {place}?", max_tokens=4))
            engine.ends(f"p{place}" for place in range(4))
            assert sum(engine.begun(f"p{place}").cached_tokens == 0 for place in range(4)) == 1

    def test_what_is_kept_is_bounded(self, model: Path) -> None:
        limit = 400_000
        with RunningEngine(model, prefix_cache_bytes=limit) as engine:
            for place in range(12):
                engine.answer(f"k{place}", asking(f"{place} " * 200, max_tokens=2))
            status = engine.status()
            assert 0 < status.prefix_bytes <= limit


class TestLeaving:
    def test_a_cancelled_row_frees_its_place(self, model: Path) -> None:
        with RunningEngine(model, max_concurrency=1) as engine:
            engine.ask("gone", asking("a", max_tokens=4000))
            engine.first_piece("gone")
            engine.ask("next", asking("b", max_tokens=2))
            engine.cancel("gone")
            assert isinstance(engine.end("next"), Over)
            assert not any(isinstance(event, (Over, Failed)) for event in engine.of("gone"))

    def test_who_waits_can_go_too(self, model: Path) -> None:
        with RunningEngine(model, max_concurrency=1) as engine:
            engine.ask("first", asking("a", max_tokens=4000))
            engine.first_piece("first")
            engine.ask("waiting", asking("b", max_tokens=2))
            engine.cancel("waiting")
            engine.cancel("first")
            engine.status(lambda status: status.running == status.waiting == 0)
            assert engine.of("waiting") == []

    def test_the_death_of_the_parent_ends_it_at_once(self, model: Path) -> None:
        with RunningEngine(model) as engine:
            engine.ask("busy", asking("a", max_tokens=4000))
            engine.first_piece("busy")
            pid = engine.process.pid
            assert pid is not None
            engine.commands.close()
            wait_until(lambda: gone(pid), "the engine has noticed")
            # Gone for the system is not yet reaped by us.
            engine.process.join()

    def test_stop_ends_a_busy_engine_in_good_order(self, model: Path) -> None:
        with RunningEngine(model) as engine:
            engine.ask("busy", asking("a", max_tokens=4000))
            engine.first_piece("busy")
            assert engine.stop() == 0


class TestMemory:
    # Two layers, two heads of eight numbers, keys and values, four bytes each: of one position.
    POSITION = 2 * 2 * 2 * 8 * 4
    HEADROOM = 128 * 2**20

    def spec(self, engine: RunningEngine, positions: int) -> int:
        return int(engine.first.weights_bytes) + self.HEADROOM + positions * self.POSITION

    def test_what_can_never_fit_is_refused_with_figures(self, model: Path, shared: RunningEngine) -> None:
        limit = self.spec(shared, 512)
        with RunningEngine(model, memory_limit_bytes=limit) as engine:
            engine.ask("large", asking("a", max_tokens=2000))
            problem = engine.end("large").problem
            assert (problem.type, problem.http_status) == ("insufficient_memory", 413)
            assert problem.extra["required_bytes"] > problem.extra["available_bytes"] == limit
            assert isinstance((engine.ask("small", asking("a", max_tokens=20)), engine.end("small"))[1], Over)

    def test_what_fits_later_waits(self, model: Path, shared: RunningEngine) -> None:
        with RunningEngine(model, memory_limit_bytes=self.spec(shared, 512)) as engine:
            engine.ask("one", asking("a", max_tokens=400))
            engine.ask("two", asking("b", max_tokens=400))
            assert all(isinstance(end, Over) for end in engine.ends(("one", "two")))
            kinds = [(type(event).__name__, event.id) for event in engine.events if isinstance(event, Over)]
            begun = [event.id for event in engine.events if type(event).__name__ in ("Begun", "Over")]
            assert kinds and begun == ["one", "one", "two", "two"]

    def test_what_is_kept_leaves_room_for_the_rows(self, model: Path, shared: RunningEngine) -> None:
        """Rows that end at the same time are not all kept, where they were let in for what they take themselves."""
        room = 1150
        with RunningEngine(model, memory_limit_bytes=self.spec(shared, room)) as engine:
            for place in range(8):
                sampling = Sampling(temperature=1.0, seed=place)
                engine.ask(f"r{place}", asking(f"{place} " * 40, max_tokens=60, sampling=sampling))
            engine.ends(f"r{place}" for place in range(8))
            engine.status(lambda status: status.running == 0)
            kept = [event.prefix_bytes for event in engine.events if isinstance(event, Status)]
            assert 0 < max(kept) <= room * self.POSITION

    def test_a_model_that_does_not_fit_is_not_loaded(self, model: Path) -> None:
        with RunningEngine(model, memory_limit_bytes=1000) as engine:
            assert isinstance(engine.first, LoadFailed)
            assert engine.first.problem.type == "insufficient_memory"
            engine.process.join(10)
            assert engine.process.exitcode == 0

    def test_limits_of_tokens(self, tmp_path: Path) -> None:
        folder = tiny_model(tmp_path / "m", TinyOptions(eos_in_tokenizer=None, context_length=64))
        with RunningEngine(folder) as engine:
            engine.ask("half", asking("abc"))
            assert engine.end("half").usage.completion_tokens == 32
            engine.ask("over", asking("abc", max_tokens=63))
            problem = engine.end("over").problem
            assert (problem.type, problem.http_status) == ("context_length_exceeded", 400)
            assert (problem.extra["prompt_tokens"], problem.extra["max_tokens"]) == (3, 63)
        with RunningEngine(folder, default_max_tokens=7) as engine:
            engine.ask("default", asking("abc"))
            assert engine.end("default").usage.completion_tokens == 7


class TestFailures:
    @pytest.fixture
    def lying_model(self, tmp_path: Path) -> Path:
        """A model whose config promises more tokens than it has: some values that look right are not."""
        folder = tiny_model(tmp_path / "m", ENDLESS)
        config = json.loads((folder / "config.json").read_text())
        outer = {"model_type": "mistral3", "text_config": config, "vocab_size": config["vocab_size"] + 100}
        outer["max_position_embeddings"] = config["max_position_embeddings"]
        (folder / "config.json").write_text(json.dumps(outer))
        return folder

    def test_only_who_is_to_blame_fails(self, lying_model: Path) -> None:
        poison = Sampling(temperature=1.0, top_p=1.0, top_k=330)
        others = {f"o{place}": asking("abcdef" * place, max_tokens=40) for place in range(1, 5)}
        others["seeded"] = asking("x", max_tokens=40, sampling=Sampling(temperature=1.0, seed=3, presence_penalty=1.0))
        with RunningEngine(lying_model) as engine:
            expected = {id: engine.answer(f"before-{id}", request) for id, request in others.items()}
            for id, request in others.items():
                engine.ask(id, request)
            engine.first_piece("seeded")
            engine.ask("poison", asking("a", max_tokens=5, sampling=poison))
            assert engine.end("poison").problem.type == "generation_failed"
            assert {id: (engine.end(id).reason, engine.text(id)) for id in others} == {
                id: ("length", text) for id, text in expected.items()
            }
            assert engine.answer("after", others["o1"]) == expected["o1"]

    def test_templates_that_fail_harm_nobody(self, tmp_path: Path) -> None:
        template = "{{ raise_exception('no ' + messages[0].content) }}"
        with RunningEngine(tiny_model(tmp_path / "m", TinyOptions(chat_template=template))) as engine:
            engine.ask("chat", chatting("way", max_tokens=3))
            assert "no way" in engine.end("chat").problem.message
            assert isinstance((engine.ask("raw", asking("a", max_tokens=3)), engine.end("raw"))[1], Over)


class TestOneAfterTheOther:
    def test_sequences_that_cannot_be_one_batch_take_turns(self, tmp_path: Path) -> None:
        folder = random_model(tmp_path / "m", "llama", config={"hidden_size": 128, "head_dim": 32})
        from mlxk2.runner.request import CacheOptions

        options = EngineOptions(cache=CacheOptions(kv_bits=8))
        with RunningEngine(folder, options=options) as engine:
            engine.ask("long", asking("a", max_tokens=2000))
            engine.first_piece("long")
            assert isinstance((engine.ask("short", asking("b", max_tokens=3)), engine.end("short"))[1], Over)
            engine.cancel("long")
            engine.ask("last", asking("c", max_tokens=3))
            assert isinstance(engine.end("last"), Over)


class TestEmbeddings:
    def test_vectors_have_length_one_and_depend_on_their_text_alone(self, tmp_path: Path) -> None:
        folder = random_model(tmp_path / "Tiny-Embedding", "qwen3")
        with RunningEngine(folder) as engine:
            assert engine.first.can_embed and not engine.first.can_generate
            texts = ("a", "the cat sat on the mat", "a much longer text than the others " * 4)
            engine.send(Embed("all", texts))
            together = engine.end("all")
            assert isinstance(together, Embedded)
            assert all(math.isclose(sum(x * x for x in vector), 1.0, rel_tol=1e-4) for vector in together.vectors)
            for place, text in enumerate(texts):
                engine.send(Embed(f"e{place}", (text,)))
                (alone,) = engine.end(f"e{place}").vectors
                assert alone == pytest.approx(together.vectors[place], abs=1e-4)

    def test_its_steps_are_told(self, tmp_path: Path) -> None:
        """Who watches would take an engine for dead that works for long and tells of no step."""
        with RunningEngine(random_model(tmp_path / "Tiny-Embedding", "qwen3")) as engine:
            engine.send(Embed("many", ("the cat sat on the mat " * 4,) * 64))
            engine.end("many")
            assert engine.status(lambda status: status.waiting == 0).steps >= 4

    def test_other_pooling_is_refused(self, tmp_path: Path) -> None:
        folder = random_model(tmp_path / "Tiny-Embedding", "qwen3")
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
        with RunningEngine(folder) as engine:
            engine.send(Embed("e", ("a",)))
            assert engine.end("e").problem.type == "incompatible_model"

    def test_chat_models_embed_nothing(self, shared: RunningEngine) -> None:
        shared.send(Embed("e", ("a",)))
        assert shared.end("e").problem.type == "incompatible_model"


def test_memory_does_not_grow(model: Path) -> None:
    """Hundreds of requests of every size: what MLX holds afterwards is what it held after the first ones."""
    with RunningEngine(model, prefix_cache_bytes=2**20) as engine:

        def burst(name: str) -> int:
            ids = [f"{name}{place}" for place in range(100)]
            for place, id in enumerate(ids):
                engine.ask(id, asking(f"{place}" * (place % 37 + 1), max_tokens=place % 9 + 1, sampling=GREEDY))
            assert all(isinstance(end, Over) for end in engine.ends(ids))
            return int(engine.status(lambda status: status.running == 0).active_bytes)

        first = burst("warm")
        last: Any = [burst(f"round{number}-") for number in range(4)][-1]
        assert last <= first + 2**20
