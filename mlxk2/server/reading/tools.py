"""What the APIs ask of tools alike."""

from __future__ import annotations

from collections.abc import Iterable

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
