"""A request of the Responses API, understood: items become messages."""

from __future__ import annotations

from dataclasses import replace

from mlxk2.runner.constraint import Constraint
from mlxk2.runner.request import GenerationRequest, Message, ToolCall
from mlxk2.server.errors import TOO_LONG, BadRequest
from mlxk2.server.packed import unpacked
from mlxk2.server.schemas.openai_responses import FlatNamedTool, InputItem, InputPart, ResponsesRequest
from mlxk2.server.settings import ServerSettings

from . import tools
from .form import constraint_of
from .parts import check_fields, text_of
from .sampling import budget_of, check_stream_options, sampling_of, stops_of
from .variables import effort_variables

NAMES = {"max_tokens": "max_output_tokens", "logprobs": "top_logprobs", "messages": "input", TOO_LONG: "input"}
_EACH = ("type", "id", "status")
_FIELDS = {
    "message": (*_EACH, "role", "phase", "content"),
    "function_call": (*_EACH, "call_id", "name", "arguments"),
    "function_call_output": (*_EACH, "call_id", "output"),
    "reasoning": (*_EACH, "content", "summary", "encrypted_content"),
}


def read_responses(body: ResponsesRequest, settings: ServerSettings) -> GenerationRequest:
    """Return the request. Raises: UsageError, BadRequest, DependencyMissing."""
    check_stream_options(body.stream_options, body.stream)
    effort = body.reasoning.effort if body.reasoning is not None else None
    variables = effort_variables(effort, body.chat_template_kwargs)
    tools.check_functions(((tool.name, tool.parameters) for tool in body.tools or ()), "tools.{}.parameters")
    choice = _choice(body)
    return GenerationRequest(
        messages=_messages(body),
        sampling=sampling_of(body, settings),
        max_tokens=budget_of(settings, max_output_tokens=body.max_output_tokens),
        stop=stops_of(body.stop),
        constraint=tools.form_beside_tools(_constraint(body), body.tools, choice, "text.format"),
        top_logprobs=_logprobs(body),
        tools=tuple(
            tools.function_tool(tool.name, tool.description, tool.parameters, tool.strict) for tool in body.tools or ()
        ),
        tool_choice=choice,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        template_variables=variables,
    )


def _messages(body: ResponsesRequest) -> tuple[Message, ...]:
    turns = _Turns()
    if body.instructions:
        turns.add(Message("system", body.instructions))
    if isinstance(body.input, str):
        turns.add(Message("user", body.input))
        return turns.closed()
    if not body.input:
        raise BadRequest("input must not be empty", param="input")
    thoughts: str | None = None
    for number, item in enumerate(body.input):
        where = f"input.{number}"
        check_fields(item, _FIELDS[item.type], where)
        if item.type == "reasoning":
            thoughts = _thoughts(item, where)
            continue
        if item.type == "function_call":
            turns.add_call(_call(item, where), thoughts)
        else:
            turns.add(_message(item, where, thoughts))
        thoughts = None
    messages = turns.closed()
    tools.check_tool_results(messages, "input")
    return messages


class _Turns:
    """The messages that items become; calls join the assistant's turn that they belong to, all of them at once."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._calls: list[ToolCall] = []

    def add(self, message: Message) -> None:
        """Take a message."""
        self._join_calls()
        self._messages.append(message)

    def add_call(self, call: ToolCall, thoughts: str | None) -> None:
        """Take a call, and what was thought before it."""
        last = self._messages[-1] if self._messages else None
        if last is None or last.role != "assistant":
            self._messages.append(Message("assistant", "", reasoning=thoughts))
        elif thoughts and not last.reasoning:
            self._messages[-1] = replace(last, reasoning=thoughts)
        self._calls.append(call)

    def closed(self) -> tuple[Message, ...]:
        """Return all messages."""
        self._join_calls()
        return tuple(self._messages)

    def _join_calls(self) -> None:
        if self._calls:
            self._messages[-1] = replace(self._messages[-1], tool_calls=tuple(self._calls))
            self._calls = []


def _call(item: InputItem, where: str) -> ToolCall:
    return ToolCall(
        tools.needed(item.call_id, f"{where}.call_id"),
        tools.needed(item.name, f"{where}.name"),
        item.arguments or "{}",
    )


def _message(item: InputItem, where: str, thoughts: str | None) -> Message:
    if item.type == "function_call_output":
        call_id = tools.needed(item.call_id, f"{where}.call_id")
        return Message("tool", text_of(item.output, f"{where}.output"), tool_call_id=call_id)
    role = tools.needed(item.role, f"{where}.role")
    if item.content is None:
        raise BadRequest(f"{where}.content: field required", param=f"{where}.content")
    text = text_of(item.content, f"{where}.content")
    role = "system" if role == "developer" else role
    return Message(role, text, reasoning=thoughts if role == "assistant" else None)


def _thoughts(item: InputItem, where: str) -> str | None:
    """Return what the model thought: its own words, what they were packed into, or a summary of them."""
    if isinstance(item.content, str):
        return item.content or None
    words = text_of(_as_text(item.content), f"{where}.content")
    if not words and item.encrypted_content is not None:
        words = _unpacked(item.encrypted_content, f"{where}.encrypted_content")
    return words or text_of(_as_text(item.summary), f"{where}.summary") or None


def _as_text(parts: list[InputPart] | None) -> list[InputPart]:
    kinds = ("reasoning_text", "summary_text")
    return [part.model_copy(update={"type": "text"}) if part.type in kinds else part for part in parts or ()]


def _unpacked(packed: str, where: str) -> str:
    try:
        return unpacked(packed)
    except ValueError as error:
        raise BadRequest(f"{where}: this server did not write that; leave it out", param=where) from error


def _constraint(body: ResponsesRequest) -> Constraint | None:
    wanted = body.text.format if body.text is not None else None
    return None if wanted is None else constraint_of(wanted.type, wanted.schema_, "text.format")


def _logprobs(body: ResponsesRequest) -> int | None:
    if body.top_logprobs is not None:
        return body.top_logprobs
    return 0 if "message.output_text.logprobs" in (body.include or ()) else None


def _choice(body: ResponsesRequest) -> str:
    choice = body.tool_choice
    if choice is None or choice in ("none", "auto"):
        return choice if isinstance(choice, str) else "auto"
    if not body.tools:
        raise tools.no_tools()
    if not isinstance(choice, FlatNamedTool):
        return choice
    return tools.known_tool(choice.name, (tool.name for tool in body.tools))
