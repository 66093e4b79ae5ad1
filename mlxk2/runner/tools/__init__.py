"""Tool calls in generated text: found in any chunking, told as they come, never lost. Knows no engine and no API.

A model marks its calls with texts of its own; what stands between them a parser of mlx-lm's understands.
"""

from __future__ import annotations

from .forced import forced_call
from .format import ToolFormat
from .parts import CallLost, CallPart
from .reader import ForcedReader, MarkedReader, ToolReader

__all__ = ["CallLost", "CallPart", "ForcedReader", "MarkedReader", "ToolFormat", "ToolReader", "forced_call"]
