"""A request of the Responses API, understood: items become messages."""

from __future__ import annotations

from dataclasses import replace

from mlxk2.runner.constraint import Constraint
from mlxk2.runner.request import GenerationRequest, Message, ToolCall
from mlxk2.server.errors import BadRequest
from mlxk2.server.schemas.openai_responses import FlatNamedTool, InputItem, ResponsesRequest
from mlxk2.server.settings import ServerSettings

from . import common, tools

NAMES = {"max_tokens": "max_output_tokens", "logprobs": "top_logprobs"}


def read_responses(body: ResponsesRequest, settings: ServerSettings) -> GenerationRequest:
    """Return the request. Raises: UsageError, BadRequest, DependencyMissing."""
    if body.store:
        # Clients say so by default; nothing is stored, and the answer says that.
        body = body.model_copy(update={"store": False})
    effort = body.reasoning.effort if body.reasoning is not None else None
    variables = common.effort_variables(effort, body.chat_template_kwargs)
    common.check_variables(variables)
    return GenerationRequest(
        messages=_messages(body),
        sampling=common.sampling_of(body, settings),
        max_tokens=common.budget_of(settings, max_output_tokens=body.max_output_tokens),
        stop=common.stops_of(body.stop),
        constraint=_constraint(body),
        top_logprobs=_logprobs(body),
        tools=tuple(
            common.function_tool(tool.name, tool.description, tool.parameters, tool.strict) for tool in body.tools or ()
        ),
        tool_choice=_choice(body),
        template_variables=variables,
    )


def _messages(body: ResponsesRequest) -> tuple[Message, ...]:
    messages = [Message("system", body.instructions)] if body.instructions else []
    if isinstance(body.input, str):
        return (*messages, Message("user", body.input))
    if not body.input:
        raise BadRequest("input must not be empty", param="input")
    thoughts: str | None = None
    for number, item in enumerate(body.input):
        where = f"input.{number}"
        if item.type == "reasoning":
            thoughts = common.text_of(_thought_parts(item), f"{where}.content") or None
            continue
        _add(messages, item, where, thoughts)
        thoughts = None
    common.check_tool_results(messages, "input")
    return tuple(messages)


def _add(messages: list[Message], item: InputItem, where: str, thoughts: str | None) -> None:
    """Add an item; calls join the assistant's turn that they belong to."""
    if item.type == "function_call_output":
        call_id = tools.needed(item.call_id, f"{where}.call_id")
        messages.append(Message("tool", common.text_of(item.output, f"{where}.output"), tool_call_id=call_id))
    elif item.type == "function_call":
        call = ToolCall(
            tools.needed(item.call_id, f"{where}.call_id"),
            tools.needed(item.name, f"{where}.name"),
            common.check_arguments(item.arguments or "{}", f"{where}.arguments"),
        )
        if messages and messages[-1].role == "assistant":
            last = messages[-1]
            messages[-1] = replace(last, tool_calls=(*last.tool_calls, call), reasoning=last.reasoning or thoughts)
        else:
            messages.append(Message("assistant", "", tool_calls=(call,), reasoning=thoughts))
    else:
        role = tools.needed(item.role, f"{where}.role")
        if item.content is None:
            raise BadRequest(f"{where}.content: field required", param=f"{where}.content")
        text = common.text_of(item.content, f"{where}.content")
        role = "system" if role == "developer" else role
        messages.append(Message(role, text, reasoning=thoughts if role == "assistant" else None))


def _thought_parts(item: InputItem) -> list[common.Part]:
    parts = item.content if isinstance(item.content, list) else []
    return [part.model_copy(update={"type": "text"}) if part.type == "reasoning_text" else part for part in parts]


def _constraint(body: ResponsesRequest) -> Constraint | None:
    wanted = body.text.format if body.text is not None else None
    return None if wanted is None else common.constraint_of(wanted.type, wanted.schema_, "text.format")


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
