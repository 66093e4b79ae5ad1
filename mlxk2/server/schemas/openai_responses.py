"""POST /v1/responses, stateless. Source: OpenAI's API reference, "Create a model response"."""

from __future__ import annotations

from typing import Any, Literal, Optional, Union

from pydantic import Field

from .openai_chat import CommonFields
from .strict import FewItems, Items, JsonObject, Strict, ToolName


class InputPart(Strict):
    """A part of an item; only text is supported."""

    type: str
    text: Optional[str] = None
    refusal: Optional[str] = None
    annotations: Optional[list[Any]] = None
    logprobs: Optional[list[Any]] = None
    image_url: Any = None
    file_id: Any = None
    file_data: Any = None
    file_url: Any = None
    filename: Any = None
    detail: Any = None
    input_audio: Any = None


class InputItem(Strict):
    """A message, a function call, what it returned, or what the model thought."""

    type: Literal["message", "function_call", "function_call_output", "reasoning"] = "message"
    id: Optional[str] = None
    status: Optional[str] = None
    role: Optional[Literal["system", "developer", "user", "assistant"]] = None
    phase: Optional[str] = None
    content: Optional[Union[str, Items[InputPart]]] = None
    call_id: Optional[str] = None
    name: Optional[str] = None
    arguments: Optional[str] = None
    output: Optional[Union[str, Items[InputPart]]] = None
    summary: Optional[Items[InputPart]] = None
    encrypted_content: Optional[str] = None


class FlatFunction(Strict):
    """A function that the model may call."""

    type: Literal["function"]
    name: ToolName
    description: Optional[str] = None
    parameters: Optional[JsonObject] = None
    strict: Optional[bool] = None


class FlatNamedTool(Strict):
    """The function that must be called."""

    type: Literal["function"]
    name: str


class TextFormat(Strict):
    """What the answer must be."""

    type: Literal["text", "json_object", "json_schema"]
    name: Optional[str] = None
    description: Optional[str] = None
    schema_: Optional[JsonObject] = Field(None, alias="schema")
    strict: Optional[bool] = None


class TextOptions(Strict):
    """How the text is to be."""

    format: Optional[TextFormat] = None
    verbosity: Optional[Literal["medium"]] = Field(None, description="how long answers are is up to the model")


class ReasoningOptions(Strict):
    """How much the model is to think."""

    effort: Optional[Literal["none", "minimal", "low", "medium", "high", "xhigh"]] = None
    summary: Optional[Literal["auto"]] = Field(None, description="thoughts come whole, and are never summarized")
    generate_summary: Optional[Literal["auto"]] = None


class ResponsesStreamOptions(Strict):
    """Nothing that changes a stream here."""

    include_obfuscation: Literal[False] = False


class ResponsesRequest(CommonFields):
    """What is asked of a chat model; nothing is kept afterwards."""

    model: Optional[str] = None
    input: Union[str, Items[InputItem]]
    instructions: Optional[str] = None
    max_output_tokens: Optional[int] = None
    stream: bool = False
    stream_options: Optional[ResponsesStreamOptions] = None
    stop: Optional[Union[str, FewItems[str]]] = None
    tools: Optional[FewItems[FlatFunction]] = None
    tool_choice: Optional[Union[Literal["none", "auto", "required"], FlatNamedTool]] = None
    parallel_tool_calls: Optional[bool] = None
    text: Optional[TextOptions] = None
    reasoning: Optional[ReasoningOptions] = None
    top_logprobs: Optional[int] = None
    include: Optional[FewItems[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]]] = None
    truncation: Optional[Literal["disabled"]] = None
    background: Optional[Literal[False]] = None
    chat_template_kwargs: Optional[JsonObject] = Field(None, description="variables of the chat template")
