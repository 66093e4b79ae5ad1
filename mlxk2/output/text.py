"""Text that came out of files and models, made safe and short for a terminal."""

from __future__ import annotations

# Control characters could move the cursor or recolour the screen; newline and tab stay.
_CONTROLS = {code: "\ufffd" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}
_ONE_LINE = {**_CONTROLS, ord("\n"): " ", ord("\t"): " "}


def printable(text: str) -> str:
    """Replace control characters, keeping line ends and tabs."""
    return text.translate(_CONTROLS)


def one_line(text: str) -> str:
    """Replace control characters, and line ends and tabs by spaces."""
    return text.translate(_ONE_LINE)


def short_name(name: str) -> str:
    """Drop the default organisation, as the list shows it."""
    prefix = "mlx-community/"
    return name[len(prefix) :] if name.startswith(prefix) else name
