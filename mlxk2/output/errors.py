"""An error as two lines for people."""

from __future__ import annotations

from mlxk2.text import one_line


def error_lines(message: str, hint: str | None, color: bool) -> str:
    """Return "error: …" and, if there is one, "hint: …", each on a line of its own."""
    start, end = ("\x1b[1;31m", "\x1b[0m") if color else ("", "")
    lines = [f"{start}error:{end} {one_line(message)}"]
    if hint:
        lines.append(f"hint: {one_line(hint)}")
    return "\n".join(lines) + "\n"
