"""The place that human output goes to: a stream, how wide it is, whether it takes colour."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

_UNLIMITED = 4096


class View(NamedTuple):
    """`write` puts text there at once; `width` in characters, None for lines of any length; `now` in seconds since 1970."""

    write: Callable[[str], None]
    width: int | None
    color: bool
    on_terminal: bool
    now: float

    def write_rich(self, part: Any) -> None:
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
        console.print(part)
        self.write("".join(line.rstrip() + "\n" for line in drawn.getvalue().splitlines()))
