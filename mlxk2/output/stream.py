"""Events as they come: an answer that is being written, and progress of long work."""

from __future__ import annotations

from typing import Callable, TextIO

from mlxk2.events import ANSWER, REASONING, Delta, Event, Progress, Warned
from mlxk2.output.view import View
from mlxk2.text import one_line, printable
from mlxk2.units import format_size

INTERRUPTED_LINE = "[Generation interrupted by user]"


def interrupted_line(signal_name: str | None) -> str:
    """Say who ended an answer before its end: the user, unless a signal has a name."""
    return INTERRUPTED_LINE if signal_name is None else f"[Generation ended by {signal_name}]"


_BAR_WIDTH, _NARROWEST_BAR, _USUAL_WIDTH = 30, 8, 80
_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


class AnswerStream:
    """Writes an answer piece by piece; on a terminal control characters of the model's are made visible.

    Reasoning is shown to people only, dimmed where there is colour, and ends with a blank line.
    """

    def __init__(self, view: View, *, hide_reasoning: bool = False) -> None:
        self._view = view
        self._shows_reasoning = view.on_terminal and not hide_reasoning
        self._channel = ANSWER
        self._last = ""

    def __call__(self, event: Event) -> None:
        if isinstance(event, Warned):
            # It is written elsewhere, which may be the same screen.
            self.break_off()
        if not isinstance(event, Delta) or not event.text:
            return
        if event.channel == REASONING and not self._shows_reasoning:
            return
        text = printable(event.text) if self._view.on_terminal else event.text
        if event.channel != self._channel:
            text = self._turn_to(event.channel) + text
        self._view.write(text)
        self._last = event.text[-1]

    def end_line(self) -> None:
        """Finish the line that the answer left open."""
        closing = _PLAIN if self._channel == REASONING and self._view.color else ""
        self._view.write(closing + ("" if self._last == "\n" else "\n"))
        self._channel, self._last = ANSWER, "\n"

    def break_off(self) -> None:
        """Make way for an error: what was begun is ended, and where nothing was, nothing is written."""
        if self._last:
            self.end_line()

    def _turn_to(self, channel: str) -> str:
        self._channel = channel
        style = "" if not self._view.color else _DIM if channel == REASONING else _PLAIN
        return ("\n\n" if self._last else "") + style


class Warnings:
    """Writes what the user should know before the work ends, a line each."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write

    def __call__(self, event: Event) -> None:
        if isinstance(event, Warned):
            self._write(f"warning: {one_line(event.message)}\n")


class ProgressLine:
    """One line on a terminal that is drawn again as work goes on, and removed at the end; warnings stay above it.

    It is never wider than `width` tells at the moment, since a line that goes on in the next one cannot be removed.
    With `is_due` nothing is drawn before that says so.
    """

    def __init__(
        self,
        stream: TextIO,
        width: Callable[[], int | None] = lambda: None,
        is_due: Callable[[], bool] = lambda: True,
    ) -> None:
        self._stream = stream
        self._width = width
        self._is_due = is_due
        self._shown = -1

    def __call__(self, event: Event) -> None:
        if isinstance(event, Warned):
            self.clear()
            self._stream.write(f"warning: {one_line(event.message)}\n")
        if isinstance(event, Progress) and event.total > 0:
            share = min(event.done / event.total, 1.0)
            if int(share * 1000) != self._shown and self._is_due():
                self._shown = int(share * 1000)
                self._draw(event, share)

    def clear(self) -> None:
        """Remove the line."""
        if self._shown >= 0:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._shown = -1

    def _draw(self, event: Progress, share: float) -> None:
        if event.unit == "bytes":
            count = f"{format_size(event.done, ' ')} of {format_size(event.total, ' ')}"
        else:
            count = f"{event.done} of {event.total} {event.unit}"
        # A full line makes some terminals begin the next one.
        room = (self._width() or _USUAL_WIDTH) - 1
        width = min(_BAR_WIDTH, room - len(count) - 1)
        full = int(share * width)
        line = f"{'█' * full}{'░' * (width - full)} {count}" if width >= _NARROWEST_BAR else count[:room]
        self._stream.write(f"\r\x1b[K{line}")
        self._stream.flush()
