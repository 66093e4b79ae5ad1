"""A request of Anthropic's Messages API, understood: blocks become messages."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mlxk2.runner.constraint import Constraint
from mlxk2.runner.request import AUTO, NONE, GenerationRequest, Message, ToolCall
from mlxk2.server.errors import BadRequest
from mlxk2.server.schemas.anthropic import AnthropicMessage, Block, CountRequest, MessagesRequest
from mlxk2.server.schemas.strict import Items
from mlxk2.server.settings import ServerSettings

from . import tools
from .form import constraint_of
from .parts import check_fields, text_of
from .sampling import budget_of, sampling_of, stops_of

NAMES = {"stop": "stop_sequences"}
_EFFORTS = {"xhigh": "high", "max": "high"}
_RESULT: TypeAdapter[list[Block]] = TypeAdapter(Items[Block])
_EACH = ("type", "cache_control")
_FIELDS = {
    "text": (*_EACH, "text", "citations"),
    "tool_use": (*_EACH, "id", "name", "input", "caller"),
    "tool_result": (*_EACH, "tool_use_id", "content", "is_error"),
    "thinking": (*_EACH, "thinking", "signature"),
}


def read_messages(body: CountRequest, settings: ServerSettings) -> GenerationRequest:
    """Return the request. Raises: UsageError, BadRequest, DependencyMissing."""
    messages = [Message("system", text_of(body.system, "system"))] if body.system else []
    for number, message in enumerate(body.messages):
        messages += _turn(message, f"messages.{number}.content")
    tools.check_tool_results(messages, "messages")
    wanted = body.output_config.format if body.output_config is not None else None
    form = None if wanted is None else constraint_of(wanted.type, wanted.schema_, "output_config.format")
    tools.check_functions(((tool.name, tool.input_schema) for tool in body.tools or ()), "tools.{}.input_schema")
    choice = _choice(body)
    begins = _begins_answer(body, messages, form, choice)
    request = GenerationRequest(
        messages=tuple(messages),
        continues=begins,
        constraint=tools.form_beside_tools(form, body.tools, choice, "output_config.format"),
        tools=tuple(tools.function_tool(tool.name, tool.description, tool.input_schema) for tool in body.tools or ()),
        tool_choice=choice,
        parallel_tool_calls=body.tool_choice is None or body.tool_choice.disable_parallel_tool_use is not True,
        template_variables=_variables(body),
    )
    if not isinstance(body, MessagesRequest):
        return request
    return replace(
        request,
        sampling=sampling_of(body, settings),
        max_tokens=budget_of(settings, max_tokens=body.max_tokens),
        stop=stops_of(body.stop_sequences, "stop_sequences"),
    )


def _begins_answer(body: CountRequest, messages: list[Message], form: Constraint | None, choice: str) -> bool:
    """Return whether the answer goes on from the last message; those without a word are dropped. Raises: BadRequest."""
    where = f"messages.{len(body.messages) - 1}.content"
    while messages and _is_empty(messages[-1]):
        messages.pop()
    if not any(message.role != "system" for message in messages):
        raise BadRequest(f"{where}: the beginning of an answer needs text", param=where)
    last = messages[-1]
    if last.role != "assistant":
        return False
    reason = None
    if last.tool_calls:
        reason = "a call of a tool needs its result after it"
    elif last.content[-1:].isspace():
        reason = "the beginning of an answer must not end in whitespace"
    elif form is not None or choice not in (AUTO, NONE):
        reason = "the beginning of an answer cannot be given where output_config.format or tool_choice sets its form"
    elif body.thinking is not None and body.thinking.type == "enabled":
        reason = "the beginning of an answer cannot be given where thoughts come first (thinking)"
    elif not last.content:
        reason = "the beginning of an answer needs text"
    if reason is not None:
        raise BadRequest(f"{where}: {reason}", param=where)
    _join_last(messages)
    return True


def _is_empty(message: Message) -> bool:
    """Whether it is an assistant's message that says nothing."""
    return message.role == "assistant" and not (message.content or message.reasoning or message.tool_calls)


def _join_last(messages: list[Message]) -> None:
    """Make one turn of the assistant's last messages, as Anthropic's API does; a call stays in a turn of its own."""
    while len(messages) > 1 and messages[-2].role == "assistant" and not messages[-2].tool_calls:
        last, before = messages.pop(), messages.pop()
        thoughts = "".join(filter(None, (before.reasoning, last.reasoning))) or None
        messages.append(replace(before, content=before.content + last.content, reasoning=thoughts))


def _turn(message: AnthropicMessage, where: str) -> list[Message]:
    if isinstance(message.content, str):
        return [Message(message.role, message.content)]
    for number, block in enumerate(message.content):
        _check_block(block, f"{where}.{number}")
    results = [
        Message(
            "tool",
            _result(block, f"{where}.{number}"),
            tool_call_id=tools.needed(block.tool_use_id, f"{where}.{number}.tool_use_id"),
        )
        for number, block in enumerate(message.content)
        if block.type == "tool_result"
    ]
    if results and message.role != "user":
        raise BadRequest(f"{where}: results of tools are the user's", param=where)
    calls, thoughts, texts = [], [], []
    for number, block in enumerate(message.content):
        at = f"{where}.{number}"
        if block.type == "tool_use":
            calls.append(_call(block, at, message.role))
        elif block.type == "thinking":
            thoughts.append(block.thinking or "")
        elif block.type == "text":
            texts.append(block.text or "")
    if texts or calls or thoughts or not results:
        own = Message(message.role, "".join(texts), tool_calls=tuple(calls), reasoning="".join(thoughts) or None)
        return [*results, own]
    return results


def _check_block(block: Block, where: str) -> None:
    if block.type not in _FIELDS:
        raise BadRequest(f"{where}: blocks of type {block.type[:40]!r} are not supported", param=where)
    if block.type == "text" and block.text is None:
        raise BadRequest(f"{where}.text: field required", param=f"{where}.text")
    check_fields(block, _FIELDS[block.type], where)


def _call(block: Block, where: str, role: str) -> ToolCall:
    if role != "assistant":
        raise BadRequest(f"{where}: only an assistant calls tools", param=where)
    arguments = json.dumps(block.input or {}, ensure_ascii=False)
    return ToolCall(tools.needed(block.id, f"{where}.id"), tools.needed(block.name, f"{where}.name"), arguments)


def _result(block: Block, where: str) -> str:
    # Templates know results, and no failures.
    return f"Error: {_result_text(block, where)}" if block.is_error else _result_text(block, where)


def _result_text(block: Block, where: str) -> str:
    if block.content is None or isinstance(block.content, str):
        return block.content or ""
    try:
        parts = _RESULT.validate_python(block.content)
    except ValidationError as error:
        raise BadRequest(f"{where}.content: must be text or a list of text blocks", param=f"{where}.content") from error
    return text_of(parts, f"{where}.content")


def _choice(body: CountRequest) -> str:
    choice = body.tool_choice
    if choice is None or choice.type in ("auto", "none"):
        return "auto" if choice is None else choice.type
    if not body.tools:
        raise tools.no_tools()
    if choice.type == "any":
        return "required"
    name = tools.needed(choice.name, "tool_choice.name")
    return tools.known_tool(name, (tool.name for tool in body.tools), "tool_choice.name")


def _variables(body: CountRequest) -> dict[str, Any]:
    variables: dict[str, Any] = {}
    if body.thinking is not None:
        variables["enable_thinking"] = body.thinking.type != "disabled"
    effort = body.output_config.effort if body.output_config is not None else None
    if effort is not None:
        variables["reasoning_effort"] = _EFFORTS.get(effort, effort)
    return variables
