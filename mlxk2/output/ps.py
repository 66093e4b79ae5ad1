"""What a running server has loaded, as lines for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlxk2.output.view import View
from mlxk2.text import one_line
from mlxk2.units import format_size

_HEADERS = ("Name", "State", "Memory", "Prefixes", "Context", "Loaded")


def render_ps(data: Mapping[str, Any], options: Mapping[str, Any], view: View) -> None:
    """Print a line about the server, then a table of its models."""
    busy = f"{data['running']} running (of {data['max_concurrency']}), {data['waiting']} waiting"
    lines = [f"Server: {one_line(data['url'])} — {data['state']}, {busy}, up {_duration(data['uptime_s'])}"]
    if data["restarts"]:
        lines.append(f"Engines lost: {data['restarts']}")
    if data["problem"]:
        lines.append(f"Problem: {one_line(data['problem'])}")
    rows = [_HEADERS, *map(_row, data["loaded"])]
    if len(rows) > 1:
        widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADERS))]
        lines += ["", *("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)]
    view.write("\n".join(lines) + "\n")


def _row(model: Mapping[str, Any]) -> tuple[str, ...]:
    memory = model["memory_bytes"] if model["memory_bytes"] is not None else model["weights_bytes"]
    return (
        one_line(model["name"]),
        model["state"],
        _size(memory),
        _size(model["prefix_cache_bytes"]),
        "-" if model["context_length"] is None else str(model["context_length"]),
        "-" if model["loaded_s"] is None else f"{_duration(model['loaded_s'])} ago",
    )


def _size(count: int | None) -> str:
    return "-" if count is None else format_size(count, " ")


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
