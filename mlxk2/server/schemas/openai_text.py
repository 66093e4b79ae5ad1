"""POST /v1/completions and /v1/embeddings. Source: OpenAI's API reference."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Optional, Union

from pydantic import BeforeValidator, Field, SkipValidation

from .openai_chat import CommonFields
from .strict import StopField, StreamOptions, Strict

TextsValue = Union[str, list[str], list[int], list[list[int]]]


def _texts(given: Any) -> Any:
    """Look through texts or ids, up to the first that is wrong. Raises: ValueError."""
    if isinstance(given, str):
        return given
    kinds = set(map(type, given)) if isinstance(given, list) else {type(given)}
    if kinds <= {str} or kinds <= {int}:
        return given
    if kinds == {list} and all(set(map(type, ids)) <= {int} for ids in given):
        return given
    raise ValueError("must be a text, a list of texts, token ids, or a list of lists of token ids")


# Looked through by hand: of each wrong number pydantic says for each kind of list why it is none.
Texts = Annotated[SkipValidation[TextsValue], BeforeValidator(_texts)]


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
