"""What the APIs ask alike: sampling, stop strings, budgets, the form of the answer, text out of parts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from mlxk2.errors import UsageError
from mlxk2.runner.constraint import Constraint
from mlxk2.runner.request import GenerationRequest, Message, Sampling
from mlxk2.server.errors import BadRequest
from mlxk2.server.settings import ServerSettings

_SAMPLING = (
    "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed",
)  # fmt: skip
_MOST_STOPS = 64
_LONGEST_STOP = 1024
_LARGEST_SEED = 2**64 - 1
_ANY_OBJECT = '{"type":"object"}'
TEXT_PARTS = ("text", "input_text", "output_text")
# What a part that is text may have; some of it is what an answer had, and comes back with it.
_PART_FIELDS = frozenset({"type", "text", "refusal", "annotations", "logprobs", "citations", "cache_control"})


class Part(Protocol):
    """A part of a message, in any API."""

    @property
    def type(self) -> str:
        """What it is."""
        ...

    @property
    def text(self) -> str | None:
        """What it says, if it is text."""
        ...

    @property
    def model_fields_set(self) -> set[str]:
        """The names of what was given."""
        ...


def sampling_of(body: Any, settings: ServerSettings) -> Sampling:
    """Return how to sample: what the body says, else the server's own values. Raises: UsageError, BadRequest."""
    fields = {name: getattr(body, name, None) for name in _SAMPLING}
    given: dict[str, Any] = {name: value for name, value in fields.items() if value is not None}
    bias = getattr(body, "logit_bias", None)
    if bias:
        given["logit_bias"] = {_token_id(key): value for key, value in bias.items()}
    return replace(settings.sampling, **given)


def _token_id(key: str) -> int:
    if not (key.isascii() and key.isdigit() and len(key) < 10):
        raise BadRequest(f"logit_bias: {key[:40]!r} is no token id", param="logit_bias")
    return int(key)


def stops_of(stop: str | list[str] | None, name: str = "stop") -> tuple[str, ...]:
    """Return the stop strings. Raises: BadRequest."""
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(stops) > _MOST_STOPS or any(len(text) > _LONGEST_STOP for text in stops):
        raise BadRequest(f"{name}: at most {_MOST_STOPS} strings of at most {_LONGEST_STOP} characters", param=name)
    if not all(stops):
        raise BadRequest(f"{name} must not be empty", param=name)
    return stops


def budget_of(settings: ServerSettings, **given: int | None) -> int | None:
    """Return the budget of tokens: the first that is given, else the server's. Raises: BadRequest."""
    for name, value in given.items():
        if value is not None:
            if value < 1:
                raise BadRequest(f"{name} must be at least 1, not {value}", param=name)
            return value
    return settings.max_tokens


def constraint_of(kind: str, schema: Mapping[str, Any] | None, name: str) -> Constraint | None:
    """Return what the answer must be; the engine tries it out. Raises: BadRequest naming the field `name`."""
    if kind == "text":
        return None
    if kind == "json_schema" and schema is None:
        raise BadRequest(f"{name}: json_schema needs a schema", param=name)
    source = _ANY_OBJECT if kind == "json_object" else json.dumps(schema, ensure_ascii=False)
    try:
        return Constraint.json_schema(source).called(name)
    except UsageError as error:
        words = error.message.replace("--json-schema", name, 1)
        raise BadRequest(words, param=name) from error


def text_of(parts: str | Iterable[Part] | None, where: str) -> str:
    """Return the text of a content. Raises: BadRequest for anything else than text; nothing is ever fetched."""
    if parts is None or isinstance(parts, str):
        return parts or ""
    texts = []
    for number, part in enumerate(parts):
        if part.type == "refusal":
            texts.append(getattr(part, "refusal", None) or "")
        elif part.type not in TEXT_PARTS:
            raise BadRequest(
                f"{where}.{number}: parts of type {part.type[:40]!r} are not supported, only text is",
                param=f"{where}.{number}",
            )
        elif part.text is None:
            raise BadRequest(f"{where}.{number}.text: field required", param=f"{where}.{number}.text")
        else:
            texts.append(part.text)
        check_fields(part, _PART_FIELDS, f"{where}.{number}")
    return "".join(texts)


def check_fields(part: Part, known: Iterable[str], where: str) -> None:
    """Raises: BadRequest naming a field that a part of its type does not have."""
    foreign = sorted(part.model_fields_set.difference(known))
    if foreign:
        name = f"{where}.{foreign[0]}"
        raise BadRequest(f"{name}: what is of type {part.type[:40]!r} has no such field", param=name)


def function_tool(name: str, description: str | None, parameters: Any, strict: bool | None = None) -> dict[str, Any]:
    """Return a function as chat templates know it."""
    function: dict[str, Any] = {"name": name}
    if description is not None:
        function["description"] = description
    function["parameters"] = {"type": "object", "properties": {}} if parameters is None else parameters
    if strict is not None:
        function["strict"] = strict
    return {"type": "function", "function": function}


def check_arguments(arguments: str, where: str) -> str:
    """Return the text of a call's arguments. Raises: BadRequest where they are no JSON object."""
    try:
        value = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise BadRequest(f"{where} must be the text of a JSON object", param=where)
    return arguments or "{}"


def effort_variables(effort: str | None, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the template's variables: how much to think, in the words that templates know, and what the body gives."""
    variables: dict[str, Any] = {}
    if effort == "none":
        variables["enable_thinking"] = False
    elif effort is not None:
        variables |= {
            "reasoning_effort": {"minimal": "low", "xhigh": "high"}.get(effort, effort),
            "enable_thinking": True,
        }
    return {**variables, **(given or {})}


def check_variables(variables: Mapping[str, Any]) -> None:
    """Raises: BadRequest for variables that the server sets itself."""
    taken = sorted({"messages", "tools", "add_generation_prompt"}.intersection(variables))
    if taken:
        raise BadRequest(f"chat_template_kwargs: {taken[0]} cannot be set", param="chat_template_kwargs")


def check_tool_results(messages: Iterable[Message], where: str) -> None:
    """Raises: BadRequest where a tool's message answers no call before it."""
    known: set[str] = set()
    for message in messages:
        known.update(call.id for call in message.tool_calls)
        if message.role == "tool" and message.tool_call_id not in known:
            raise BadRequest(
                f"{where}: the result of the call {message.tool_call_id!r} has no call before it", param=where
            )


def choices_of(request: GenerationRequest, count: int) -> list[GenerationRequest]:
    """Return the same request so many times; where there is a seed, each with one of its own."""
    seed = request.sampling.seed
    if seed is None:
        return [request] * count
    seeds = [(seed + number) & _LARGEST_SEED for number in range(count)]
    return [replace(request, sampling=replace(request.sampling, seed=one)) for one in seeds]


def count_of(n: int | None, settings: ServerSettings) -> int:
    """Return how many answers are asked for. Raises: BadRequest."""
    if n is not None and not 1 <= n <= settings.max_choices:
        raise BadRequest(f"n must be between 1 and {settings.max_choices}, not {n}", param="n")
    return n or 1
