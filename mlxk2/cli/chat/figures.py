"""Tokens and speed of a chat, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlxk2.operations.chat_turns import Turn


def last_answer(turn: Turn, context_length: int) -> str:
    """Say what one answer took, and how full the context is."""
    usage, timing = turn.usage, turn.timing
    if usage is None or timing is None:
        return "nothing was measured of the last answer"
    first = timing.time_to_first_token_s
    parts = [
        f"{usage.completion_tokens} tokens" + (", cut off" if turn.reason == "length" else ""),
        f"{turn.tokens_per_second or 0:.1f} tokens/s",
        f"first after {'-' if first is None else f'{first:.2f}'} s",
        f"{usage.prompt_tokens - usage.cached_tokens} tokens read, {usage.cached_tokens} kept",
        f"context {usage.total_tokens} of {context_length} ({usage.total_tokens * 100 // context_length} %)",
    ]
    return " · ".join(parts)


def whole_chat(turns: Sequence[Turn]) -> str:
    """Say how long the chat is."""
    measured = [turn.usage for turn in turns if turn.usage is not None]
    said = sum(usage.completion_tokens for usage in measured)
    count = number_of_turns(len(turns))
    return f"{count}, {said} tokens said" if measured else count


def number_of_turns(count: int) -> str:
    """Say how many turns there are."""
    return "one turn" if count == 1 else f"{count} turns"
