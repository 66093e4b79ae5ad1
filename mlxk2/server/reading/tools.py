"""What the APIs ask of tools alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from typing import Any

from mlxk2.runner.constraint import Constraint
from mlxk2.runner.request import NONE, Message
from mlxk2.server.errors import BadRequest


def needed(value: str | None, where: str) -> str:
    """Return what must be there. Raises: BadRequest."""
    if not value:
        raise BadRequest(f"{where}: field required", param=where)
    return value


def known_tool(name: str, tools: Iterable[str], where: str = "tool_choice") -> str:
    """Return the name of the tool that must be called. Raises: BadRequest where there is none of that name."""
    if name not in tools or name in ("auto", "none", "required"):
        raise BadRequest(f"tool_choice: there is no tool named {name[:80]!r}", param=where)
    return name


def no_tools() -> BadRequest:
    """Return the error that says that there is nothing to choose from."""
    return BadRequest("tool_choice: needs tools", param="tool_choice")


def check_functions(functions: Iterable[tuple[str, Any]], place: str) -> None:
    """Look through names and parameters; `place` is where those of number {} are.

    Raises: BadRequest where two have one name, or parameters are those of no function.
    """
    known: dict[str, int] = {}
    for number, (name, parameters) in enumerate(functions):
        where = place.format(number)
        if known.setdefault(name, number) != number:
            at = where.rpartition(".")[0]
            raise BadRequest(f"{at}.name: tool {known[name]} has the name {name!r} already", param=f"{at}.name")
        kind = parameters.get("type", "object") if isinstance(parameters, Mapping) else "object"
        if kind != "object":
            raise BadRequest(
                f'{where}.type: a function\'s parameters must be of the type "object"', param=f"{where}.type"
            )


def form_beside_tools(form: Constraint | None, tools: Sized | None, choice: str, name: str) -> Constraint | None:
    """Return the form that the answer must have. Raises: BadRequest where calls may come, which have a form of their own."""
    if form is not None and tools and choice != NONE:
        raise BadRequest(
            f"{name}: an answer of this form cannot call tools; set tool_choice to none, or leave out {name} or tools",
            param=name,
        )
    return form


def function_tool(name: str, description: str | None, parameters: Any, strict: bool | None = None) -> dict[str, Any]:
    """Return a function as chat templates know it."""
    function: dict[str, Any] = {"name": name}
    if description is not None:
        function["description"] = description
    function["parameters"] = {"type": "object", "properties": {}} if parameters is None else parameters
    if strict is not None:
        function["strict"] = strict
    return {"type": "function", "function": function}


def check_tool_results(messages: Iterable[Message], where: str) -> None:
    """Raises: BadRequest where a tool's message answers no call before it."""
    known: set[str] = set()
    for message in messages:
        known.update(call.id for call in message.tool_calls)
        if message.role == "tool" and message.tool_call_id not in known:
            raise BadRequest(
                f"{where}: the result of the call {message.tool_call_id!r} has no call before it", param=where
            )
