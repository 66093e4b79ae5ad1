"""Tool calls in generated text: found in any chunking, told as they come, never lost. Knows no engine and no API.

A model marks its calls with texts of its own; what stands between them a parser of mlx-lm's understands.
"""

from __future__ import annotations

from .forced import forced_call
from .format import ToolFormat
from .json_call import JSON_OBJECT, MISTRAL
from .json_prefix import complete_part, is_json
from .known import HARMONY, known_format
from .parts import CallLost, CallPart
from .reader import MarkedReader, ToolReader, WholeReader

__all__ = [
    "HARMONY",
    "JSON_OBJECT",
    "MISTRAL",
    "CallLost",
    "CallPart",
    "MarkedReader",
    "ToolFormat",
    "ToolReader",
    "WholeReader",
    "complete_part",
    "forced_call",
    "is_json",
    "known_format",
]
