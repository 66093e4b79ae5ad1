"""What all requests have in common: unknown fields are errors, `null` means "not given", nothing is guessed into a type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Optional, TypeVar, Union

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetCoreSchemaHandler, model_validator
from pydantic_core import CoreSchema

JsonObject = dict[str, Any]
# What OpenAI and Anthropic take, and the dots that others write.
ToolName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")]
Words = Annotated[str, Field(min_length=1)]
Item = TypeVar("Item")


@dataclass(frozen=True)
class AtMost:
    """Of a list: it has so many items, and the first wrong one is enough to refuse it; a word on each could fill the memory."""

    count: int

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return how the list is read."""
        schema: Any = handler(source)
        assert schema["type"] == "list"
        made: CoreSchema = {**schema, "max_length": self.count, "fail_fast": True}
        return made


Items = Annotated[list[Item], AtMost(10_000)]
FewItems = Annotated[list[Item], AtMost(1_000)]


def _first_bias(given: Any) -> Any:
    """Return what is given, or the first of it that is wrong."""
    if isinstance(given, dict):
        for name, value in given.items():
            if type(value) not in (int, float):
                return {name: value}
    return given


class Strict(BaseModel):
    """A request, or a part of one."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())
    # The names of the fields, as requests spell them.
    _names: ClassVar[frozenset[str]]

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Note the names, once all fields are known."""
        cls._names = frozenset(field.alias or name for name, field in cls.model_fields.items())

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        """Of unknown fields one is enough."""
        if not isinstance(data, dict):
            return data
        known = cls._names
        foreign = next((name for name, value in data.items() if name not in known and value is not None), None)
        return {name: value for name, value in data.items() if value is not None and (name in known or name == foreign)}


class NoFields(Strict):
    """Nothing is asked but what the address says."""


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
    logit_bias: Optional[Annotated[dict[str, float], BeforeValidator(_first_bias)]] = Field(
        None, description="token id -> -100 to 100"
    )


class StreamOptions(Strict):
    """What a stream has besides its pieces."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


StopField = Optional[Union[str, FewItems[str]]]
