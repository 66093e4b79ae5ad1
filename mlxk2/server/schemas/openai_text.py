"""POST /v1/completions and /v1/embeddings. Source: OpenAI's API reference."""

from __future__ import annotations

from typing import Literal, Optional, Union

from pydantic import Field

from .openai_chat import CommonFields
from .strict import StopField, StreamOptions, Strict

Texts = Union[str, list[str], list[int], list[list[int]]]


class CompletionRequest(CommonFields):
    """A text to continue, as it is."""

    model: Optional[str] = None
    prompt: Texts
    suffix: Optional[str] = None
    max_tokens: Optional[int] = None
    n: Optional[int] = None
    best_of: Optional[int] = None
    echo: bool = False
    stop: StopField = None
    stream: bool = False
    stream_options: Optional[StreamOptions] = None
    logprobs: Optional[int] = None


class EmbeddingRequest(Strict):
    """Texts to embed."""

    model: Optional[str] = None
    input: Texts
    encoding_format: Literal["float", "base64"] = "float"
    user: Optional[str] = Field(None, description="a label, without effect")
