"""Kimi K3: sections named "think" and "response" in a message, each opened and closed by special tokens."""

from __future__ import annotations

from .tags import Tags

# Source: mlx_lm/tokenizer_utils.py.
FORMAT = Tags(
    "kimi_sections",
    ("<|open|>think<|sep|>",),
    "<|close|>think<|sep|>",
    answer_opener="<|open|>response<|sep|>",
    answer_closers=("<|close|>response<|sep|>", "<|close|>message<|sep|>"),
    tokens=("<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>"),
)
