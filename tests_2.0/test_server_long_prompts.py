"""Long texts are read beside the answers, which go on; everything that holds for short ones holds for them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from support.processes import wait_until
from support.real_server import MARKS, RealServer, real_server, refusal
from support.running_engine import RunningEngine, asking, chatting
from support.tiny_model import TinyOptions, scripted_model

from mlxk2.server.engine.reader import Reader
from mlxk2.server.protocol import Count, Counted, Embed, Failed, Over

pytestmark = MARKS

PATIENCE_S = 30
CONTEXT = 1_000_000
# Some seconds of work, and far more tokens than the context holds.
HUGE = "the cat sat on the mat. " * 120_000
# Long enough to be read beside the others.
LONG = "z" * 6_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    folder = tmp_path_factory.mktemp("models")
    options = TinyOptions(context_length=CONTEXT)
    with real_server(scripted_model(folder / "endless", "and so on. ", options, repeat=True)) as started:
        yield started


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = TinyOptions(context_length=CONTEXT)
    return scripted_model(tmp_path_factory.mktemp("models") / "endless", "and so on. ", options, repeat=True)


class Listener(Thread):
    """Listens to an endless answer, and notes when its pieces come."""

    def __init__(self, server: RealServer) -> None:
        super().__init__(daemon=True)
        self.server, self.times, self.enough = server, [], Event()
        self.times: list[float] = []
        self.start()
        wait_until(lambda: len(self.times) > 50, "the answer has begun")

    def run(self) -> None:
        body = {"model": self.server.model, "stream": True, "max_tokens": 200_000, "prompt": "go"}
        with self.server.client.stream("POST", "/v1/completions", json=body) as answer:
            for _ in answer.iter_raw():
                self.times.append(time.monotonic())
                if self.enough.is_set():
                    return

    def end(self) -> None:
        self.enough.set()
        self.join(20)

    def largest_gap(self, start: float, end: float) -> float:
        """Return the longest time without a piece between `start` and `end`."""
        within = [moment for moment in self.times if start <= moment <= end]
        return max(b - a for a, b in zip([start, *within], [*within, end]))


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/messages/count_tokens"])
def test_an_answer_goes_on_while_a_huge_prompt_is_read(server: RealServer, path: str) -> None:
    listener = Listener(server)
    text: dict[str, Any] = (
        {"prompt": HUGE} if path == "/v1/completions" else {"messages": [{"role": "user", "content": HUGE}]}
    )
    try:
        began = time.monotonic()
        answer = server.post(path, **text)
        ended = time.monotonic()
    finally:
        listener.end()
    if path.endswith("count_tokens"):
        assert answer.json()["input_tokens"] > CONTEXT
    else:
        assert refusal(answer)["code"] == "context_length_exceeded"
    usual = statistics.median(b - a for a, b in zip(listener.times, listener.times[1:]))
    # Where nothing is read beside it, the answer stands still for nearly all of the time.
    assert listener.largest_gap(began, ended) < max((ended - began) / 3, 50 * usual, 0.1)


# --- in the engine ----------------------------------------------------------------------------------------------------


@pytest.fixture
def engine(model: Path) -> Iterator[RunningEngine]:
    with RunningEngine(model, max_concurrency=1, max_queue=2) as started:
        yield started


def test_long_texts_come_to_what_short_ones_would(engine: RunningEngine) -> None:
    engine.ask("raw", asking(LONG, max_tokens=2))
    assert engine.end("raw").usage.prompt_tokens == len(LONG)
    engine.ask("chat", chatting(LONG, max_tokens=2))
    engine.send(Count("count", chatting(LONG)))
    engine.send(Count("short", chatting("z")))
    assert engine.end("count").tokens == engine.end("chat").usage.prompt_tokens
    assert engine.end("count").tokens == engine.end("short").tokens + len(LONG) - 1


def test_what_came_first_is_read_first_and_short_ones_need_not_wait(engine: RunningEngine) -> None:
    engine.send(Count("long", asking(HUGE)))
    engine.send(Count("longer", asking(HUGE + HUGE)))
    engine.send(Count("short", asking("z")))
    assert isinstance(engine.end("longer"), Counted)
    assert [event.id for event in engine.events if isinstance(event, Counted)] == ["short", "long", "longer"]


def test_shorter_texts_go_before_longer_ones(engine: RunningEngine) -> None:
    engine.send(Count("being read", asking(HUGE * 3)))
    # By then it is at it: it is told once a second what waits.
    engine.status(lambda status: status.waiting == 1)
    engine.send(Count("huge", asking(HUGE)))
    engine.send(Count("long", asking(LONG)))
    assert isinstance(engine.end("huge"), Counted)
    assert [event.id for event in engine.events if isinstance(event, Counted)] == ["being read", "long", "huge"]


def test_what_nobody_wants_any_more_is_not_read_to_its_end(engine: RunningEngine) -> None:
    engine.send(Count("huge", asking(HUGE)))
    began = time.monotonic()
    engine.send(Count("all", asking(HUGE * 6)))
    # Each "the" is a token with the space before it, but the first one has none.
    assert engine.end("all").tokens == 6 * (engine.end("huge").tokens - 1) + 1
    whole_s, began = time.monotonic() - began, time.monotonic()
    engine.send(Count("given up", asking(HUGE * 6)))
    engine.status(lambda status: status.waiting == 1)
    engine.cancel("given up")
    engine.send(Count("wanted", asking(LONG)))
    assert engine.end("wanted").tokens == len(LONG)
    # Most of this is the state, which is told once a second.
    assert time.monotonic() - began < whole_s / 2 + 0.5
    assert not engine.of("given up")


def test_what_is_being_read_counts_as_waiting(engine: RunningEngine) -> None:
    engine.ask("stream", asking("y", max_tokens=200_000))
    engine.first_piece("stream")
    for name in ("book", "other"):
        engine.send(Count(name, asking(HUGE * 6)))
    engine.status(lambda status: (status.running, status.waiting) == (1, 2))
    engine.ask("one too many", asking("z", max_tokens=2))
    assert engine.end("one too many").problem.type == "queue_full"
    engine.send(Count("one more to read", asking(LONG)))
    assert engine.end("one more to read").problem.type == "queue_full"
    engine.send(Count("little", asking("z")))
    assert isinstance(engine.end("little"), Counted)
    for name in ("stream", "book", "other"):
        engine.cancel(name)
    engine.status(lambda status: (status.running, status.waiting) == (0, 0))


def test_nothing_is_told_of_what_is_given_up_while_it_is_read(engine: RunningEngine) -> None:
    engine.send(Count("being read", asking(HUGE * 3)))
    engine.status(lambda status: status.waiting == 1)
    engine.ask("in line", asking(LONG, max_tokens=2))
    engine.send(Count("wanted", asking(LONG)))
    engine.cancel("in line")
    engine.cancel("being read")
    assert engine.end("wanted").tokens == len(LONG)
    assert not engine.of("being read") and not engine.of("in line")
    engine.status(lambda status: not status.running + status.waiting)


def test_what_is_wrong_with_a_long_text_is_its_own_affair(engine: RunningEngine) -> None:
    engine.ask("half a character", asking(LONG + "\ud800", max_tokens=2))
    engine.send(Embed("no model for that", (LONG,)))
    engine.ask("sound", asking(LONG, max_tokens=2))
    ends = engine.ends(["half a character", "no model for that"])
    assert all(isinstance(end, Failed) for end in ends)
    assert [end.problem.type for end in ends] == ["CommandError", "incompatible_model"]
    assert isinstance(engine.end("sound"), Over)


def test_ids_that_were_given_are_looked_at_beside_the_others_too(engine: RunningEngine) -> None:
    engine.ask("many", asking(prompt_ids=(7,) * 100_000 + (99_999_999,), max_tokens=2))
    engine.ask("too many", asking(prompt_ids=(7,) * (CONTEXT + 1), max_tokens=2))
    assert (engine.end("many").problem.type, engine.end("many").problem.http_status) == ("CommandError", 400)
    assert engine.end("too many").problem.type == "context_length_exceeded"


def test_an_engine_that_is_reading_ends_at_once(model: Path) -> None:
    with RunningEngine(model) as engine:
        engine.send(Count("long", asking(HUGE * 4)))
        engine.status(lambda status: status.waiting == 1)
        began = time.monotonic()
        assert engine.stop() == 0
        assert time.monotonic() - began < 5
        assert not engine.of("long")


@pytest.mark.parametrize("before", [0, 1, 2])
def test_a_reader_knows_that_it_is_reading(before: int) -> None:
    begun, goes_on = Event(), Event()

    class Model:
        """Stands still at the last of its texts."""

        left = before

        def count(self, _request: Any, _look: Any) -> int:
            if not self.left:
                begun.set()
                goes_on.wait(PATIENCE_S)
            self.left -= 1
            return 1

    reader = Reader(Model(), lambda found: None)  # type: ignore[arg-type]
    try:
        for number in range(before + 1):
            reader.take(Count(str(number), asking(LONG)))
        assert begun.wait(PATIENCE_S)
        assert reader.close()
    finally:
        goes_on.set()
    wait_until(lambda: not reader.close(), "nothing is read any more")


def test_what_is_far_too_long_is_not_read_to_its_end(engine: RunningEngine) -> None:
    # Half an hour's work, and more memory than there is.
    engine.ask("endless", asking("a b c " * 2**23, max_tokens=2))
    problem = engine.end("endless").problem
    assert (problem.type, "at least" in problem.message) == ("context_length_exceeded", True)
