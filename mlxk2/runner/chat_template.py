"""Renders a model's chat template in a sandbox, as the rest of the world renders it. Knows no token and no engine.

Templates come with the model and are untrusted: they see messages and special tokens and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from mlxk2 import errors

from .request import Message

if TYPE_CHECKING:
    from jinja2 import Template

# Older ones have known ways out of the sandbox.
_OLDEST_JINJA = (3, 1, 6)

_TEMPLATE_FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
)


def render(template: str, messages: tuple[Message, ...], variables: Mapping[str, Any]) -> str:
    """Return the text of the conversation, up to where the model's answer begins.

    Raises: GenerationFailed with the template's own words; DependencyMissing when jinja2 is missing or too old.
    Source: the chat template conventions of transformers (`apply_chat_template`).
    """
    from jinja2.exceptions import TemplateError

    chat = [{"role": message.role, "content": message.content} for message in messages]
    try:
        compiled = _compile(template)
        return compiled.render(**variables, messages=chat, tools=None, documents=None, add_generation_prompt=True)
    except TemplateError as error:
        raise _failure(str(error.message or error), messages) from error
    except _TEMPLATE_FAILURES as error:
        raise _failure(f"{type(error).__name__}: {error}", messages) from error


def _failure(reason: str, messages: tuple[Message, ...]) -> errors.GenerationFailed:
    has_system = any(message.role == "system" for message in messages)
    hint = "run it without --system" if has_system and "system" in reason.lower() else "use --no-chat-template"
    return errors.GenerationFailed(f"the model's chat template failed: {reason}", hint=hint)


@lru_cache(maxsize=4)
def _compile(source: str) -> Template:
    try:
        import jinja2
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise errors.DependencyMissing("jinja2 is not installed", hint="pip install 'jinja2>=3.1.6'") from error
    if _version(jinja2.__version__) < _OLDEST_JINJA:
        raise errors.DependencyMissing(
            f"jinja2 {jinja2.__version__} is too old to run chat templates safely", hint="pip install 'jinja2>=3.1.6'"
        )
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_generation_tag(), "jinja2.ext.loopcontrols"],
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment.from_string(source)


def _generation_tag() -> type[Any]:
    """The `{% generation %}` block, which marks the assistant's words for training and changes nothing here."""
    from jinja2 import nodes
    from jinja2.ext import Extension

    class GenerationTag(Extension):
        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            # A call block gives the body a scope of its own, as it has elsewhere.
            return nodes.CallBlock(self.call_method("_pass_through"), [], [], body).set_lineno(line)

        def _pass_through(self, caller: Any) -> str:
            return str(caller())

    return GenerationTag


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja's own filter escapes HTML, which models have never seen.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: object) -> None:
    from jinja2.exceptions import TemplateError

    raise TemplateError(str(message))


def _strftime_now(pattern: str) -> str:
    from datetime import datetime

    return datetime.now().strftime(pattern)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:3] if part.isdecimal())
