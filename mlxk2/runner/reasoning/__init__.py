"""Which parts of a generated text are reasoning and which are the answer. Pure: knows templates and markers, no engine.

A new format is a new module, and a line in `FORMATS`.
"""

from __future__ import annotations

from typing import Callable

from . import cohere, gemma, harmony, kimi, think
from .channels import ReasoningFormat, Splitter

__all__ = ["FORMATS", "ReasoningFormat", "Splitter", "is_reasoning_vocabulary", "reasoning_format"]

# The first that applies counts: those with more marks go before those with fewer.
FORMATS: tuple[ReasoningFormat, ...] = (
    harmony.FORMAT,
    gemma.FORMAT,
    kimi.FORMAT,
    cohere.FORMAT,
    *think.FORMATS,
)


def reasoning_format(template: str | None, is_token: Callable[[str], bool]) -> ReasoningFormat | None:
    """Return how a model marks its reasoning, None if it does not.

    What the chat template writes counts before what the vocabulary has: a fine-tune may think in other marks than
    the model that its vocabulary comes from.
    """
    for known in FORMATS:
        if known.is_in_template(template or ""):
            return known
    for known in FORMATS:
        if known.is_in_vocabulary(is_token):
            return known
    return None


def is_reasoning_vocabulary(is_token: Callable[[str], bool]) -> bool:
    """Return whether the vocabulary has the marks of a reasoning model."""
    return any(known.is_in_vocabulary(is_token) for known in FORMATS)
