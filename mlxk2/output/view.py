"""The place that human output goes to: a stream, how wide it is, whether it takes colour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TextIO

_UNLIMITED = 4096


@dataclass(frozen=True)
class View:
    """`width` in characters, None where lines may be any length; `now` in seconds since 1970."""

    stream: TextIO
    width: int | None
    color: bool
    on_terminal: bool
    now: float

    def write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()

    def write_rich(self, *parts: Any) -> None:
        """Print what rich can render, without its trailing blanks."""
        from io import StringIO

        from rich.console import Console

        drawn = StringIO()
        console = Console(
            file=drawn,
            width=self.width or _UNLIMITED,
            force_terminal=self.color,
            color_system="standard" if self.color else None,
            highlight=False,
            emoji=False,
            markup=False,
            soft_wrap=False,
        )
        for part in parts:
            console.print(part)
        self.write("".join(line.rstrip() + "\n" for line in drawn.getvalue().splitlines()))
