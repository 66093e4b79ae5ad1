"""Budgets: how many tokens may come, and whether the model fits into memory. Asks only how much RAM there is."""

from __future__ import annotations

import os
from dataclasses import dataclass

from mlxk2 import errors
from mlxk2.inspection.context import DEFAULT_CONTEXT_LENGTH

# What the rest of the system keeps; MLX itself stops at about the same share.
_USABLE_SHARE = 0.85

# Attention scores and activations of one prefill step.
PREFILL_HEADROOM_BYTES = 128 * 2**20

# An answer of the default budget may end anywhere; room for this many tokens is what it must have to begin.
EXPECTED_ANSWER_TOKENS = 1024


def token_budget(prompt_tokens: int, context_length: int | None, max_tokens: int | None) -> int:
    """Return how many tokens may be generated: what was asked for, at most what the context leaves.

    Raises: ContextLengthExceeded when the prompt leaves no room for a single token.
    """
    context = context_length or DEFAULT_CONTEXT_LENGTH
    room = context - prompt_tokens
    if room < 1:
        raise errors.ContextLengthExceeded(
            f"the prompt has {prompt_tokens} tokens, the model's context holds {context}",
            hint="shorten the prompt, or use a model with a longer context",
            prompt_tokens=prompt_tokens,
            context_length=context,
        )
    return room if max_tokens is None else min(max_tokens, room)


def check_length(least_tokens: int, context: int | None) -> None:
    """Do nothing where a text of at least so many tokens may fit. Raises: ContextLengthExceeded."""
    if context is not None and least_tokens > context:
        raise errors.ContextLengthExceeded(
            f"the prompt has at least {least_tokens} tokens, the model's context holds {context}",
            hint="shorten the prompt, or use a model with a longer context",
            prompt_tokens=least_tokens,
            context_length=context,
        )


@dataclass(frozen=True)
class MemoryDemand:
    """What a generation will need. Units: bytes."""

    weights_bytes: int
    kv_bytes: int
    headroom_bytes: int = PREFILL_HEADROOM_BYTES

    @property
    def total_bytes(self) -> int:
        """The sum of the parts."""
        return self.weights_bytes + self.kv_bytes + self.headroom_bytes


def check_memory(demand: MemoryDemand, limit_bytes: int | None, ways: tuple[str, ...] = ()) -> None:
    """Do nothing when the demand fits, or when nobody knows the limit. `ways` says what would fit.

    Raises: InsufficientMemory naming the figures.
    """
    if limit_bytes is None or demand.total_bytes <= limit_bytes:
        return
    advice = ways or ("use a smaller or more quantized model",)
    raise errors.InsufficientMemory(
        f"the model needs about {_gigabytes(demand.total_bytes)} (weights {_gigabytes(demand.weights_bytes)}, "
        f"KV cache {_gigabytes(demand.kv_bytes)}, headroom {_gigabytes(demand.headroom_bytes)}), "
        f"but only {_gigabytes(limit_bytes)} can be used",
        hint="; ".join((*advice, "--force tries it all the same")),
        required_bytes=demand.total_bytes,
        weights_bytes=demand.weights_bytes,
        kv_bytes=demand.kv_bytes,
        available_bytes=limit_bytes,
    )


def memory_limit_bytes() -> int | None:
    """Return what a model may use of this machine, a share of its RAM; None where it does not say how much it has."""
    try:
        ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
    return int(ram * _USABLE_SHARE)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 10_000_000 else f"{size / 1e6:.2f} MB"
