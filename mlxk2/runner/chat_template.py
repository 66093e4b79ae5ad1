"""Renders a model's chat template in a sandbox, as the rest of the world renders it. Knows no token and no engine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from threading import get_ident
from typing import Any

from mlxk2 import errors

from . import json_answer
from .request import Message, ToolCall
from .tools.json_prefix import complete_part

# Older ones have known ways out of the sandbox.
_OLDEST_JINJA = (3, 1, 6)
_HINT = "pip install 'jinja2>=3.1.6'"

_TEMPLATE_FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)


def render(template: str, messages: tuple[Message, ...], variables: Mapping[str, Any]) -> str:
    """Return the text of the conversation, up to where the model's answer begins (`add_generation_prompt`, by default).

    The template sees messages and special tokens and nothing else, and may take so many steps and no more.

    Raises: GenerationFailed with the template's own words; DependencyMissing when jinja2 is missing or too old.
    Source: the chat template conventions of transformers (`apply_chat_template`).
    """
    chat = [as_template_sees(message) for message in messages]
    try:
        return _rendered(template, chat, variables, messages)
    except errors.GenerationFailed:
        if not _read_broken_arguments(chat):
            raise
    return _rendered(template, chat, variables, messages)


def _rendered(
    template: str, chat: list[dict[str, Any]], variables: Mapping[str, Any], messages: tuple[Message, ...]
) -> str:
    jinja = _sandbox_module()
    try:
        sandbox, compiled = _compiled(template, get_ident())
        sandbox.start()
        known = {"tools": None, "documents": None, "add_generation_prompt": True, **variables}
        text = compiled.render(**known, messages=chat)
    except jinja.TemplateError as error:
        raise _failure(str(error.message or error), messages) from error
    except _TEMPLATE_FAILURES as error:
        raise _failure(f"{type(error).__name__}: {error}", messages) from error
    return str(text)


def as_template_sees(message: Message) -> dict[str, Any]:
    """Return a message in the form that chat templates know; what is not given is not there."""
    seen: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        seen["tool_calls"] = [_call_as_template_sees(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        seen["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        seen["name"] = message.name
    if message.reasoning is not None:
        # Under both names that templates use.
        seen["reasoning_content"] = seen["thinking"] = message.reasoning
    return seen


def _call_as_template_sees(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": _arguments_as_template_sees(call.arguments)}
    return {"id": call.id, "type": "function", "function": function}


def _arguments_as_template_sees(text: str) -> Any:
    """Templates write the arguments out themselves, from the object; text that is none they take as it is."""
    try:
        value = json_answer.parse(text)
    except ValueError:
        return text
    return value if _is_sound_object(value) else text


def _is_sound_object(value: Any) -> bool:
    """Whether a template can write it: escapes can have been half of a character that needs two."""
    with suppress(UnicodeEncodeError, RecursionError):
        return isinstance(value, dict) and bool(json.dumps(value, ensure_ascii=False).encode("utf-8"))
    return False


def _read_broken_arguments(chat: list[dict[str, Any]]) -> bool:
    """Put objects where arguments are text, for templates that look into them; return whether there were any.

    What is complete of a call that was cut is in its object.
    """
    calls = [call["function"] for seen in chat for call in seen.get("tool_calls", ())]
    broken = [function for function in calls if isinstance(function["arguments"], str)]
    for function in broken:
        value = complete_part(function["arguments"])
        function["arguments"] = value if _is_sound_object(value) else {}
    return bool(broken)


def _failure(reason: str, messages: tuple[Message, ...]) -> errors.GenerationFailed:
    has_system = any(message.role == "system" for message in messages)
    hint = "run it without --system" if has_system and "system" in reason.lower() else "use --no-chat-template"
    return errors.GenerationFailed(f"the model's chat template failed: {reason}", hint=hint)


def _sandbox_module() -> Any:
    """The module that imports jinja2; imported when a template is rendered."""
    try:
        import jinja2

        from . import template_sandbox
    except ImportError as error:
        raise errors.DependencyMissing("jinja2 is not installed", hint=_HINT) from error
    if _version(jinja2.__version__) < _OLDEST_JINJA:
        raise errors.DependencyMissing(
            f"jinja2 {jinja2.__version__} is too old to run chat templates safely", hint=_HINT
        )
    return template_sandbox


@lru_cache(maxsize=4)
def _compiled(source: str, _thread: int) -> tuple[Any, Any]:
    """A sandbox, which counts what one thread does in it, and the template."""
    sandbox = _sandbox_module().Sandbox()
    return sandbox, sandbox.compiled(source)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:3] if part.isdecimal())
