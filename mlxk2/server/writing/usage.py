"""Counts of tokens, as OpenAI's API gives them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from mlxk2.server.exchange import Collected
from mlxk2.server.protocol import Over


def usage_of(answers: Iterable[Collected], choices_a_prompt: int = 1) -> dict[str, Any]:
    """Return the counts of all answers; a prompt that several of them share counts once."""
    return usage_json([answer.ending for answer in answers], choices_a_prompt)


def usage_json(endings: Sequence[Over], choices_a_prompt: int = 1) -> dict[str, Any]:
    """Return the counts as OpenAI's API gives them."""
    usages = [ending.usage for ending in endings]
    prompts = usages[::choices_a_prompt]
    prompt_tokens = sum(usage.prompt_tokens for usage in prompts)
    completion_tokens = sum(usage.completion_tokens for usage in usages)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": sum(usage.cached_tokens for usage in prompts)},
        "completion_tokens_details": {"reasoning_tokens": sum(ending.reasoning_tokens for ending in endings)},
    }
