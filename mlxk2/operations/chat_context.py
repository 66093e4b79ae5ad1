"""Makes a conversation fit into a model's context: all of it or an error, or without its oldest turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Callable, NamedTuple

from mlxk2.errors import ContextLengthExceeded
from mlxk2.inspection.context import DEFAULT_CONTEXT_LENGTH
from mlxk2.runner.limits import EXPECTED_ANSWER_TOKENS

from .chat_settings import ROTATE, ChatSettings
from .chat_turns import Turn, conversation

if TYPE_CHECKING:
    from mlxk2.runner.answer import PreparedPrompt
    from mlxk2.runner.runner import MLXRunner

# When turns must go, so many go at once that it need not happen every turn: the KV cache holds in between.
_KEPT_SHARE = 2
# An answer must find at least this share of the context.
_ANSWER_SHARE = 4

# Percent of the context at which the user is told that it fills up.
_LEVELS = (80, 90)
WAYS_ON = "/clear begins anew, /undo takes back the last turn, /set keep_context rotate leaves out the oldest turns"


class Fitted(NamedTuple):
    """A prompt that leaves room for an answer, and how many of the oldest turns it does without."""

    prompt: PreparedPrompt
    left_out: int


def context_of(runner: MLXRunner) -> int:
    """Return how many tokens the model's context holds."""
    return runner.context_length or DEFAULT_CONTEXT_LENGTH


def fit(runner: MLXRunner, settings: ChatSettings, turns: Sequence[Turn], question: str, left_out: int) -> Fitted:
    """Prepare the question after its turns; with ROTATE without the oldest `left_out` of them, or more.

    Raises: ContextLengthExceeded; what MLXRunner.prepare raises.
    """

    def without(count: int) -> PreparedPrompt:
        return runner.prepare(settings.request(conversation(turns[count:], question)))

    if settings.keep_context != ROTATE:
        try:
            return Fitted(without(0), 0)
        except ContextLengthExceeded as error:
            error.hint = WAYS_ON
            raise
    context = context_of(runner)
    room = min(settings.max_tokens or EXPECTED_ANSWER_TOKENS, context // _ANSWER_SHARE)
    # Fewer turns than were left out: some were taken back, and what is left may fit again.
    left_out = left_out if left_out < len(turns) else 0
    prompt = _at_most(without, left_out, context - room)
    if prompt is not None:
        return Fitted(prompt, left_out)
    low, high = left_out + 1, len(turns)
    while low < high:
        middle = (low + high) // 2
        fits = _at_most(without, middle, context // _KEPT_SHARE) is not None
        low, high = (low, middle) if fits else (middle + 1, high)
    least = min(low, len(turns))
    return Fitted(without(least), least)


def fullness(used: int, context: int) -> int:
    """Return the level that is reached, in percent; 0 below all of them."""
    return max((level for level in _LEVELS if used * 100 >= level * context), default=0)


def nearly_full(used: int, context: int) -> str:
    """Say how full the context is, and what can be done."""
    return f"{used} of the context's {context} tokens are used ({used * 100 // context} %): {WAYS_ON}"


def full(turn_tokens: int, context: int) -> str:
    """Say that an answer ended where the context does."""
    return f"the answer was cut off after {turn_tokens} tokens, the context of {context} is full: {WAYS_ON}"


def rotated(count: int) -> str:
    """Say that the oldest turns are not read any more."""
    turns = "the oldest turn is" if count == 1 else f"the oldest {count} turns are"
    return f"{turns} left out from now on, the context is full"


def _at_most(without: Callable[[int], PreparedPrompt], count: int, tokens: int) -> PreparedPrompt | None:
    try:
        prompt = without(count)
    except ContextLengthExceeded:
        return None
    return prompt if len(prompt.ids) <= tokens else None
