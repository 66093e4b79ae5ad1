"""The turns of a conversation, and which of them a model is given. Pure: knows no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlxk2.events import Timing, Usage
from mlxk2.runner.request import Message

if TYPE_CHECKING:
    from mlxk2.runner.answer import Answer

INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Turn:
    """A question and what was said to it, reasoning apart. `reason` tells how it ended.

    What was measured is None where the turn comes out of a file, or was cut off between two tokens.
    """

    question: str
    answer: str
    reason: str = "stop"
    usage: Usage | None = None
    timing: Timing | None = None
    tokens_per_second: float | None = None

    @classmethod
    def of(cls, question: str, answer: Answer) -> Turn:
        """Return the turn that ends with `answer`."""
        return cls(question, answer.text, answer.finish_reason, answer.usage, answer.timing, answer.tokens_per_second)


def conversation(turns: Sequence[Turn], question: str) -> tuple[Message, ...]:
    """Return the messages that lead to the answer of `question`.

    A question that was never answered is left out, since a chat template wants the roles to alternate.
    """
    answered = [turn for turn in turns if turn.answer]
    earlier = (
        message for turn in answered for message in (Message("user", turn.question), Message("assistant", turn.answer))
    )
    return (*earlier, Message("user", question))
