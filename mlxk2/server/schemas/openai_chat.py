"""POST /v1/chat/completions. Source: OpenAI's API reference, "Create chat completion"."""

from __future__ import annotations

from typing import Any, Literal, Optional, Union

from pydantic import Field

from .strict import FewItems, Items, JsonObject, SamplingFields, StopField, StreamOptions, Strict, ToolName


class ContentPart(Strict):
    """A part of a message; only text is supported."""

    type: str
    text: Optional[str] = None
    refusal: Optional[str] = None
    image_url: Any = None
    input_audio: Any = None
    file: Any = None
    cache_control: Any = None


class FunctionCall(Strict):
    """What an assistant called."""

    name: str
    arguments: str = "{}"


class CalledTool(Strict):
    """A call in an assistant's message."""

    id: str
    type: Literal["function"] = "function"
    index: Optional[int] = None
    function: FunctionCall


class ChatMessage(Strict):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Optional[Union[str, Items[ContentPart]]] = None
    name: Optional[str] = None
    tool_calls: Optional[FewItems[CalledTool]] = None
    tool_call_id: Optional[str] = None
    reasoning_content: Optional[str] = None
    reasoning: Optional[str] = None
    refusal: Optional[str] = None
    annotations: Optional[list[Any]] = None
    audio: Any = None
    function_call: Any = None


class FunctionSpec(Strict):
    """A function that the model may call."""

    name: ToolName
    description: Optional[str] = None
    parameters: Optional[JsonObject] = None
    strict: Optional[bool] = None


class Tool(Strict):
    """A tool; only functions are supported."""

    type: Literal["function"]
    function: FunctionSpec


class NamedFunction(Strict):
    """The function that must be called."""

    name: str


class NamedTool(Strict):
    """The tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


class JsonSchemaFormat(Strict):
    """A JSON Schema that the answer must fit."""

    name: Optional[str] = None
    description: Optional[str] = None
    schema_: Optional[JsonObject] = Field(None, alias="schema")
    strict: Optional[bool] = None


class ResponseFormat(Strict):
    """What the answer must be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: Optional[JsonSchemaFormat] = None


class CommonFields(SamplingFields):
    """Labels, which change nothing, and what can only be asked for as it is anyway."""

    user: Optional[str] = Field(None, description="a label, without effect")
    metadata: Optional[JsonObject] = Field(None, description="labels, without effect")
    prompt_cache_key: Optional[str] = Field(None, description="a label, without effect: like prompts are found anyway")
    safety_identifier: Optional[str] = Field(None, description="a label, without effect")
    store: Optional[Literal[False]] = Field(None, description="nothing is ever stored")
    service_tier: Optional[Literal["auto", "default"]] = Field(None, description="all requests are served alike")
    prompt_cache_retention: Optional[Literal["in_memory", "in-memory"]] = Field(
        None, description="prompts are kept in memory, as long as there is room"
    )


class ChatRequest(CommonFields):
    """What is asked of a chat model."""

    model: Optional[str] = None
    messages: Items[ChatMessage] = Field(min_length=1)
    max_completion_tokens: Optional[int] = None
    max_tokens: Optional[int] = None
    n: Optional[int] = None
    stop: StopField = None
    stream: bool = False
    stream_options: Optional[StreamOptions] = None
    logprobs: bool = False
    top_logprobs: Optional[int] = None
    tools: Optional[FewItems[Tool]] = None
    tool_choice: Optional[Union[Literal["none", "auto", "required"], NamedTool]] = None
    parallel_tool_calls: Optional[bool] = None
    response_format: Optional[ResponseFormat] = None
    reasoning_effort: Optional[Literal["none", "minimal", "low", "medium", "high", "xhigh"]] = None
    chat_template_kwargs: Optional[JsonObject] = Field(None, description="variables of the chat template")
    modalities: Optional[FewItems[Literal["text"]]] = None
    verbosity: Optional[Literal["medium"]] = Field(None, description="how long answers are is up to the model")
