"""A chat completion's request, understood."""

from __future__ import annotations

from mlxk2.runner.constraint import Constraint
from mlxk2.runner.request import GenerationRequest, Message, ToolCall
from mlxk2.server.errors import TOO_LONG, BadRequest
from mlxk2.server.schemas.openai_chat import ChatMessage, ChatRequest, NamedTool
from mlxk2.server.settings import ServerSettings

from . import tools
from .form import constraint_of
from .parts import text_of
from .sampling import budget_of, check_stream_options, choices_of, count_of, sampling_of, stops_of
from .variables import effort_variables

# The request's words for fields, where they are other ones than those of the command line.
NAMES = {TOO_LONG: "messages"}


def read_chat(body: ChatRequest, settings: ServerSettings) -> list[GenerationRequest]:
    """Return a request for each of the `n` choices. Raises: UsageError, BadRequest, DependencyMissing."""
    variables = effort_variables(body.reasoning_effort, body.chat_template_kwargs)
    messages = tuple(_message(message, f"messages.{number}") for number, message in enumerate(body.messages))
    tools.check_tool_results(messages, "messages")
    check_stream_options(body.stream_options, body.stream)
    tools.check_functions(
        ((tool.function.name, tool.function.parameters) for tool in body.tools or ()), "tools.{}.function.parameters"
    )
    choice = _choice(body)
    request = GenerationRequest(
        messages=messages,
        sampling=sampling_of(body, settings),
        max_tokens=budget_of(settings, max_completion_tokens=body.max_completion_tokens, max_tokens=body.max_tokens),
        stop=stops_of(body.stop),
        constraint=tools.form_beside_tools(_constraint(body), body.tools, choice, "response_format"),
        top_logprobs=_logprobs(body),
        tools=tuple(
            tools.function_tool(
                tool.function.name, tool.function.description, tool.function.parameters, tool.function.strict
            )
            for tool in body.tools or ()
        ),
        tool_choice=choice,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        template_variables=variables,
    )
    return choices_of(request, count_of(body.n, settings))


def _message(message: ChatMessage, where: str) -> Message:
    if message.function_call is not None or message.audio is not None:
        name = "function_call" if message.function_call is not None else "audio"
        raise BadRequest(f"{where}.{name}: this field is not supported", param=f"{where}.{name}")
    role = "system" if message.role == "developer" else message.role
    calls = tuple(
        ToolCall(call.id, call.function.name, call.function.arguments or "{}") for call in message.tool_calls or ()
    )
    _check_role(message, where)
    content = text_of(message.content, f"{where}.content")
    return Message(
        role,
        content or (message.refusal or ""),
        tool_calls=calls,
        tool_call_id=message.tool_call_id,
        name=message.name,
        reasoning=(message.reasoning_content or message.reasoning or None) if role == "assistant" else None,
    )


def _check_role(message: ChatMessage, where: str) -> None:
    if message.tool_calls and message.role != "assistant":
        raise BadRequest(f"{where}.tool_calls: only an assistant calls tools", param=f"{where}.tool_calls")
    if (message.role == "tool") != (message.tool_call_id is not None):
        raise BadRequest(
            f"{where}.tool_call_id: a message of a tool needs it, no other has it", param=f"{where}.tool_call_id"
        )
    has_content = message.content is not None or message.tool_calls or message.refusal
    if not has_content and not (message.role == "assistant" and (message.reasoning_content or message.reasoning)):
        raise BadRequest(f"{where}.content: field required", param=f"{where}.content")


def _constraint(body: ChatRequest) -> Constraint | None:
    wanted = body.response_format
    if wanted is None:
        return None
    schema = wanted.json_schema.schema_ if wanted.json_schema is not None else None
    return constraint_of(wanted.type, schema, "response_format")


def _logprobs(body: ChatRequest) -> int | None:
    if body.top_logprobs is not None and not body.logprobs:
        raise BadRequest("top_logprobs: only with logprobs", param="top_logprobs")
    return (body.top_logprobs or 0) if body.logprobs else None


def _choice(body: ChatRequest) -> str:
    choice = body.tool_choice
    if choice is None or choice == "none":
        return choice or "auto"
    if not body.tools:
        if choice == "auto":
            return "auto"
        raise tools.no_tools()
    if not isinstance(choice, NamedTool):
        return choice
    return tools.known_tool(choice.function.name, (tool.function.name for tool in body.tools))
