"""What the engine says, and when: text that comes faster than a screen shows it is told some tokens at a time."""

from __future__ import annotations

from collections.abc import Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import pytest

from mlxk2.events import Timing, Usage
from mlxk2.runner.answer import ChosenToken
from mlxk2.server.engine.outbox import Outbox
from mlxk2.server.protocol import Begun, Counted, EngineEvent, Over, Piece, ToolPiece

OVER = Over("a", "stop", Usage(1, 1, 2, 0), Timing(0.1, 0.2))


class Told:
    """An outbox, its clock, and what came out of it."""

    def __init__(self, ours: Connection, theirs: Connection) -> None:
        self.now = 100.0
        self.due = 0
        self._line = theirs
        self._outbox = Outbox(ours, clock=lambda: self.now)

    def step(self, seconds: float, *events: EngineEvent, can_wait: bool = True) -> list[tuple[Any, ...]]:
        """Let a step take so long and tell of its events; return the messages that came."""
        self.now += seconds
        is_due = self._outbox.is_due() or not can_wait
        self.due += is_due
        self._outbox.put(events)
        self._outbox.send(is_due=is_due)
        messages = []
        while self._line.poll():
            messages.append(self._line.recv())
        return messages


@pytest.fixture
def told() -> Iterator[Told]:
    theirs, ours = Pipe(duplex=False)
    with theirs, ours:
        yield Told(ours, theirs)


def pieces(*texts: str, id: str = "a") -> list[Piece]:
    return [Piece(id, "answer", text) for text in texts]


def test_tokens_of_a_fast_model_come_some_at_a_time_and_none_is_lost(told: Told) -> None:
    messages = [message for number in range(200) for message in told.step(0.002, *pieces(f"{number} "))]
    messages += told.step(0.002, OVER)
    found = [event for message in messages for event in message]
    assert found[-1] == OVER
    assert "".join(piece.text for piece in found[:-1]) == "".join(f"{number} " for number in range(200))
    assert sum(piece.tokens for piece in found[:-1]) == 200
    assert 10 <= len(messages) <= 20


def test_tokens_of_a_slow_model_come_one_by_one(told: Told) -> None:
    assert [told.step(0.04, *pieces(text)) for text in "abc"] == [[tuple(pieces(text))] for text in "abc"]


def test_a_step_that_may_last_is_not_waited_for(told: Told) -> None:
    assert told.step(0.04, *pieces("a")) == [tuple(pieces("a"))]
    assert told.step(0.02, *pieces("b")) == [tuple(pieces("b"))]


@pytest.mark.parametrize("event", [Begun("b", 3, 0), OVER, Counted("b", 3)])
def test_all_else_is_told_at_once_and_what_waited_goes_before_it(told: Told, event: EngineEvent) -> None:
    assert told.step(0.0, *pieces("a")) == []
    assert told.step(0.001, event) == [(*pieces("a"), event)]


def test_the_first_text_of_an_answer_does_not_wait(told: Told) -> None:
    told.step(0.0, Begun("a", 3, 0))
    assert told.step(0.001, *pieces("a")) == [tuple(pieces("a"))]
    assert told.step(0.001, *pieces("b")) == []


def test_arguments_of_a_call_are_joined(told: Told) -> None:
    told.step(0.0, ToolPiece("a", 0, "call_1", "look", ""), ToolPiece("a", 0, None, None, '{"x"'))
    (message,) = told.step(0.001, ToolPiece("a", 0, None, None, ":1}"), ToolPiece("a", 1, "call_2", "see", "{}"), OVER)
    assert message == (
        ToolPiece("a", 0, "call_1", "look", '{"x":1}', 3),
        ToolPiece("a", 1, "call_2", "see", "{}"),
        OVER,
    )


def test_what_is_urgent_does_not_put_off_the_text_of_others(told: Told) -> None:
    for number in range(100):
        told.step(0.01, *pieces("x", id="b"), *([OVER] if number % 2 else []))
    # In a second it is time for text about thirty times.
    assert 20 <= told.due <= 35


@pytest.mark.parametrize(("answers", "least", "most"), [(1, 28, 33), (10, 28, 33), (14, 23, 25), (64, 20, 21)])
def test_many_answers_are_told_of_less_often_but_never_slowly(told: Told, answers: int, least: int, most: int) -> None:
    for _ in range(500):
        told.step(0.002, *(piece for number in range(answers) for piece in pieces("x", id=str(number))))
    assert least <= told.due <= most


def test_nothing_waits_where_no_step_follows(told: Told) -> None:
    assert told.step(0.0, *pieces("a"), can_wait=False) == [tuple(pieces("a"))]


def test_only_what_follows_each_other_on_one_channel_is_joined(told: Told) -> None:
    first, second = (ChosenToken(text, number, -0.5, ()) for number, text in enumerate("xy"))
    thought = Piece("a", "reasoning", "hm")
    told.step(0.0, Piece("a", "answer", "x", (first,)), Piece("b", "answer", "1"))
    (message,) = told.step(0.0, Piece("a", "answer", "y", (second,)), thought, Piece("b", "answer", "2"), OVER)
    assert message == (
        Piece("a", "answer", "xy", (first, second), 2),
        Piece("b", "answer", "12", (), 2),
        thought,
        OVER,
    )
