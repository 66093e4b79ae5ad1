"""Whether an answer is what its constraint asks for, and what to say where it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlxk2.errors import StructuredOutputFailed

if TYPE_CHECKING:
    from mlxk2.runner.answer import Answer
    from mlxk2.runner.constraint import Constraint


def value_of(constraint: Constraint, answer: Answer) -> Any:
    """Return the value of a constrained answer.

    Raises: StructuredOutputFailed saying why it has none.
    """
    problem, hint = _problem(answer)
    if problem is None:
        try:
            return constraint.value(answer.text)
        except ValueError as error:
            problem, hint = str(error), "try again, with another --seed"
    detail = {"response": answer.text, "reasoning": answer.reasoning, "finish_reason": answer.finish_reason}
    raise StructuredOutputFailed(f"the answer is not what was asked for: {problem}", hint=hint, detail=detail)


def _problem(answer: Answer) -> tuple[str | None, str | None]:
    """Why the answer cannot be what its constraint asks for, and what helps; nothing if it may be."""
    if answer.failure is not None:
        return answer.failure, None
    if answer.finish_reason == "length":
        cut = f"cut off after {answer.usage.completion_tokens} tokens"
        unfinished = answer.reasoning is not None and not answer.text
        return (f"its thought was {cut}, before it began" if unfinished else f"it was {cut}"), "raise --max-tokens"
    if answer.stop is not None:
        return f"the stop string {answer.stop!r} ended it", "drop --stop"
    return (None, None) if answer.complete else ("it ended before it was complete", "try again, with another --seed")
