"""Text that came out of files and models, made safe to show and to encode. Knows no command and no stream."""

from __future__ import annotations

_BROKEN = "\ufffd"

# Control characters could move the cursor or recolour the screen, bidi overrides and isolates could make a text look
# like another one; newline and tab stay.
_HARMFUL = (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_IN_ANSWERS = {code: _BROKEN for code in _HARMFUL if chr(code) not in "\n\t"}
_SPACES = {ord("\n"): " ", ord("\t"): " "}


def one_line(text: str) -> str:
    """Make a name or a message one printable line: line ends and tabs become spaces, the rest U+FFFD."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _BROKEN for c in text.translate(_SPACES))


def printable(text: str) -> str:
    """Replace control and bidi characters of an answer, keeping line ends and tabs."""
    return text.translate(_IN_ANSWERS)
