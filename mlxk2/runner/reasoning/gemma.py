"""Gemma 4: a channel named "thought", opened and closed by special tokens."""

from __future__ import annotations

from .tags import Tags

# Source: the chat template of google/gemma-4; mlx_lm/tokenizer_utils.py.
FORMAT = Tags("gemma", ("<|channel>thought",), "<channel|>", tokens=("<|channel>", "<channel|>"))
