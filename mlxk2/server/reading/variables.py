"""Variables of the chat template: those that a request gives, and how much to think."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlxk2.server.errors import BadRequest


def effort_variables(effort: str | None, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the template's variables: how much to think, in the words that templates know, and what the body gives.

    Raises: BadRequest for variables that the server sets itself.
    """
    _check(given or {})
    variables: dict[str, Any] = {}
    if effort == "none":
        variables["enable_thinking"] = False
    elif effort is not None:
        variables |= {
            "reasoning_effort": {"minimal": "low", "xhigh": "high"}.get(effort, effort),
            "enable_thinking": True,
        }
    return {**variables, **(given or {})}


def _check(variables: Mapping[str, Any]) -> None:
    taken = sorted({"messages", "tools", "add_generation_prompt"}.intersection(variables))
    if taken:
        raise BadRequest(f"chat_template_kwargs: {taken[0]} cannot be set", param="chat_template_kwargs")
