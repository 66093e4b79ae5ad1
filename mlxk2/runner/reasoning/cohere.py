"""Cohere's Command A Reasoning and its kin: special tokens around the reasoning and around the answer."""

from __future__ import annotations

from .tags import Tags

# Source: https://huggingface.co/CohereLabs/command-a-reasoning-08-2025 (its card and chat template).
FORMAT = Tags(
    "cohere",
    ("<|START_THINKING|>",),
    "<|END_THINKING|>",
    answer_opener="<|START_RESPONSE|>",
    answer_closers=("<|END_RESPONSE|>",),
)
