"""What all requests have in common: unknown fields are errors, `null` means "not given", nothing is guessed into a type."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Optional, Union

from pydantic import BaseModel, ConfigDict, Field, model_validator

JsonObject = dict[str, Any]
Words = Annotated[str, Field(min_length=1)]


class Strict(BaseModel):
    """A request, or a part of one."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        if isinstance(data, dict):
            return {name: value for name, value in data.items() if value is not None}
        return data


class SamplingFields(Strict):
    """How the next token is drawn: OpenAI's fields, and those that local models are used to."""

    temperature: Optional[float] = Field(None, description="0 to 100; 0 takes the most probable token", examples=[0.7])
    top_p: Optional[float] = Field(None, description="0 to 1")
    top_k: Optional[int] = Field(None, description="0 (off) or more")
    min_p: Optional[float] = Field(None, description="0 to 1")
    repetition_penalty: Optional[float] = Field(None, description="0.01 to 100; 1 is off")
    presence_penalty: Optional[float] = Field(None, description="-2 to 2")
    frequency_penalty: Optional[float] = Field(None, description="-2 to 2")
    seed: Optional[int] = Field(None, description="0 to 2^64-1; the same seed gives the same answer")
    logit_bias: Optional[dict[str, float]] = Field(None, description="token id -> -100 to 100")


class StreamOptions(Strict):
    """What a stream has besides its pieces."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


StopField = Optional[Union[str, list[str]]]
