"""What a stream says when it cannot go on."""

from __future__ import annotations

from collections.abc import Mapping

from mlxk2.errors import MlxkError
from mlxk2.server.errors import openai_error
from mlxk2.server.sse import frame


def openai_failure(error: MlxkError, names: Mapping[str, str] | None = None) -> tuple[bytes, ...]:
    """Return what a stream says of an error, as OpenAI's clients understand it. `names`: see `openai_error`."""
    return (frame(openai_error(error, names)),)
