"""The marks around gpt-oss's messages, and the one form in which its calls are handed on, however their header was written.

Source: https://cookbook.openai.com/articles/openai-harmony
"""

from __future__ import annotations

START, CHANNEL, CONSTRAIN, MESSAGE = "<|start|>", "<|channel|>", "<|constrain|>", "<|message|>"
END, RETURN, CALL = "<|end|>", "<|return|>", "<|call|>"

ROLE = "assistant"

# A call: this, the function's name, then what opens its arguments, which end with CALL.
CALL_START = f"{START}{ROLE} to=functions."
CALL_ARGUMENTS = f"{CHANNEL}commentary {CONSTRAIN}json{MESSAGE}"
