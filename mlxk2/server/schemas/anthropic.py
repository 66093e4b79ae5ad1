"""POST /v1/messages and /v1/messages/count_tokens. Source: Anthropic's API reference, "Messages"."""

from __future__ import annotations

from typing import Any, Literal, Optional, Union

from pydantic import Field

from .strict import FewItems, Items, JsonObject, Strict, ToolName


class CacheControl(Strict):
    """A hint: what prompts begin with alike is kept anyway, as long as there is room."""

    type: Literal["ephemeral"]
    ttl: Optional[Literal["5m", "1h"]] = None


class Block(Strict):
    """A part of a message: text, a call of a tool, its result, or thoughts."""

    type: str
    text: Optional[str] = None
    id: Optional[str] = None
    name: Optional[str] = None
    input: Optional[JsonObject] = None
    tool_use_id: Optional[str] = None
    content: Any = None
    is_error: Optional[bool] = None
    thinking: Optional[str] = None
    signature: Optional[str] = None
    data: Optional[str] = None
    source: Any = None
    cache_control: Optional[CacheControl] = None
    citations: Any = None
    title: Any = None
    context: Any = None
    caller: Any = None


class AnthropicMessage(Strict):
    """One turn."""

    role: Literal["user", "assistant", "system"]
    content: Union[str, Items[Block]]


class AnthropicTool(Strict):
    """A tool of the client's own."""

    type: Literal["custom"] = "custom"
    name: ToolName
    description: Optional[str] = None
    input_schema: JsonObject
    strict: Optional[bool] = None
    cache_control: Optional[CacheControl] = None
    eager_input_streaming: Optional[bool] = Field(None, description="arguments are streamed as they come anyway")
    defer_loading: Optional[Literal[False]] = None


class ToolChoice(Strict):
    """Whether, and which, tool must be called."""

    type: Literal["auto", "any", "tool", "none"]
    name: Optional[str] = None
    disable_parallel_tool_use: Optional[bool] = None


class Thinking(Strict):
    """Whether the model is to think; how long is up to the model."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Optional[int] = Field(None, ge=1, description="a hint, without effect; max_tokens bounds all")
    display: Optional[Literal["summarized"]] = Field(None, description="thoughts come whole")


class OutputFormat(Strict):
    """What the answer must be."""

    type: Literal["json_schema"]
    schema_: JsonObject = Field(alias="schema")


class OutputConfig(Strict):
    """How the answer is to be."""

    format: Optional[OutputFormat] = None
    effort: Optional[Literal["low", "medium", "high", "xhigh", "max"]] = None


class CountRequest(Strict):
    """A prompt whose tokens are counted."""

    model: Optional[str] = None
    messages: Items[AnthropicMessage] = Field(min_length=1)
    system: Optional[Union[str, Items[Block]]] = None
    tools: Optional[FewItems[AnthropicTool]] = None
    tool_choice: Optional[ToolChoice] = None
    thinking: Optional[Thinking] = None
    output_config: Optional[OutputConfig] = None
    cache_control: Optional[CacheControl] = None


class MessagesRequest(CountRequest):
    """What is asked of a chat model."""

    max_tokens: int
    temperature: Optional[float] = None
    top_p: Optional[float] = None
    top_k: Optional[int] = None
    stop_sequences: Optional[FewItems[str]] = None
    stream: bool = False
    metadata: Optional[JsonObject] = Field(None, description="labels, without effect")
    service_tier: Optional[Literal["auto", "standard_only"]] = Field(None, description="all requests are served alike")
