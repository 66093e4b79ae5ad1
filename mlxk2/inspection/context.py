"""How many tokens a model's context holds, as its config says. Knows no file and no engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DEFAULT_CONTEXT_LENGTH = 4096

# In this order; the first usable value counts.
CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "context_length", "max_sequence_length", "seq_len")

# Configs write 10**30 for "no limit"; no model that exists goes beyond this.
_LARGEST_CONTEXT = 2**31 - 1


def context_length(config: Mapping[str, Any] | None) -> int | None:
    """Return the context length that `config` states, or None where it states none that can be used.

    Units: tokens. The top level goes before `text_config`; a bool, a negative number or an absurd one is no value.
    """
    if not isinstance(config, Mapping):
        return None
    nested = config.get("text_config")
    for part in (config, nested):
        if isinstance(part, Mapping):
            for key in CONTEXT_KEYS:
                value = _usable(part.get(key))
                if value is not None:
                    return value
    return None


def _usable(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) and value.isdecimal() and len(value) < 12:
        value = int(value)
    return value if isinstance(value, int) and 0 < value <= _LARGEST_CONTEXT else None
