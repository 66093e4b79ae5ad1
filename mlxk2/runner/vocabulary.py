"""Which token ids a model can read: MLX reads beyond its arrays when an id is out of range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlxk2 import errors


def vocabulary_size(config: Mapping[str, Any]) -> int | None:
    """Return how many tokens the model knows, None where its config does not say.

    It is more than its tokenizer has where the weights were padded.
    """
    nested = config.get("text_config")
    for part in (config, nested):
        value = part.get("vocab_size") if isinstance(part, Mapping) else None
        if isinstance(value, int) and value > 0:
            return value
    return None


def check_ids(ids: Sequence[int], vocab_size: int) -> None:
    """Do nothing when every id of a prompt is in range. Raises: UsageError (empty), IncompatibleModel."""
    if not ids:
        raise errors.UsageError("the prompt is empty")
    if max(ids) >= vocab_size or min(ids) < 0:
        raise errors.IncompatibleModel(
            f"the tokenizer makes token {max(ids)}, but the model knows only {vocab_size} tokens"
        )


def check_given_ids(ids: Sequence[int], vocab_size: int) -> None:
    """Do nothing when every id that a user gave is in range. Raises: UsageError."""
    wrong = next((token for token in ids if not 0 <= token < vocab_size), None)
    if wrong is not None:
        raise errors.UsageError(
            f"prompt: the model has no token {wrong}", hint=f"its ids go from 0 to {vocab_size - 1}"
        )


def check_bias(bias: Mapping[int, float], vocab_size: int) -> None:
    """Do nothing when every biased token exists. Raises: UsageError."""
    wrong = next((token for token in bias if token >= vocab_size), None)
    if wrong is not None:
        raise errors.UsageError(
            f"--logit-bias: the model has no token {wrong}", hint=f"its ids go from 0 to {vocab_size - 1}"
        )
