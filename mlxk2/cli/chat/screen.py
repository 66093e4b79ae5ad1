"""What a person sees: answers on stdout, everything else on the terminal. Knows no conversation."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Callable

from mlxk2.cli.io import is_terminal, width_of, write
from mlxk2.cli.present import Context, view_of
from mlxk2.driving import drain
from mlxk2.errors import MlxkError, OutputFailed
from mlxk2.events import Delta, Event, Finished, Progress, Warned
from mlxk2.output.errors import error_lines
from mlxk2.output.stream import AnswerStream, ProgressLine, Warnings
from mlxk2.text import printable

if TYPE_CHECKING:
    from mlxk2.operations.chat_turns import Turn

# A prompt that is read sooner needs no progress.
_PATIENCE_S = 0.5

_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


class TerminalGone(Exception):
    """Nobody is left to talk to."""


class Screen:
    """The streams of a chat. `can_redraw`: whether a line may be taken back."""

    def __init__(self, context: Context, *, can_redraw: bool) -> None:
        self._context = context
        io = context.io
        self.terminal = io.stderr if is_terminal(io.stderr) else io.stdout
        self._color = view_of(io, context.settings, self.terminal).color
        self._can_redraw = can_redraw

    def write(self, text: str) -> None:
        """Show text as it is. Raises: TerminalGone."""
        try:
            write(self.terminal, text)
        except (OutputFailed, BrokenPipeError) as gone:
            raise TerminalGone from gone

    def say(self, text: str = "") -> None:
        """Show lines, control characters made visible."""
        self.write(printable(text) + "\n")

    def note(self, text: str) -> None:
        """Show what nobody needs who asked for quiet."""
        if not self._context.args.quiet:
            self.say(text)

    def dim(self, text: str) -> None:
        """Show a line that stands back."""
        self.write(f"{_DIM}{printable(text)}{_PLAIN}\n" if self._color else printable(text) + "\n")

    def error(self, error: MlxkError) -> None:
        """Show what went wrong, and the way out."""
        self.write(error_lines(error.message, error.hint, self._color))

    @contextmanager
    def working(self, text: str) -> Iterator[None]:
        """Show a note that goes away when the work is done."""
        shown = not self._context.args.quiet
        if shown:
            self.write(self._fitting(printable(text)) if self._can_redraw else printable(text) + "\n")
        try:
            yield
        finally:
            if shown and self._can_redraw:
                self.write("\r\x1b[K")

    def progress_line(self) -> ProgressLine | None:
        """Return what shows progress from half a second on; None where no line may be taken back, or none is wanted."""
        if not self._can_redraw or self._context.args.quiet:
            return None
        io, start = self._context.io, self._context.io.clock()
        return ProgressLine(
            self.terminal, partial(width_of, self.terminal, io), lambda: io.clock() - start >= _PATIENCE_S
        )

    def answer(self, steps: Generator[Event, None, Turn], check: Callable[[], None]) -> Turn:
        """Show an answer as it comes, and return the turn that it became; `check` may end it after each event."""
        view = _AnswerView(self._context, self.progress_line(), Warnings(self._warn))

        def sink(event: Event) -> None:
            view(event)
            check()

        try:
            turn: Turn = drain(steps, sink)
        finally:
            view.end()
        return turn

    def _fitting(self, line: str) -> str:
        """Cut what would go on in the next line, where it could not be taken back."""
        width = width_of(self.terminal, self._context.io)
        return line if width is None else line[: max(width - 1, 0)]

    def _warn(self, line: str) -> None:
        if not self._context.args.quiet:
            self.write(line)


class _AnswerView:
    """Shows the events of one answer; with --no-stream its text when it is complete."""

    def __init__(self, context: Context, progress: ProgressLine | None, warn: Warnings) -> None:
        args = context.args
        self._text = AnswerStream(view_of(context.io, context.settings), hide_reasoning=args.hide_reasoning)
        self._progress = progress
        self._warn = warn
        self._held: list[Delta] | None = [] if args.no_stream else None
        self._is_open = False

    def __call__(self, event: Event) -> None:
        if isinstance(event, Progress) and self._progress is not None:
            self._draw(event, self._progress)
        elif isinstance(event, Delta):
            self._take(event)
        elif isinstance(event, Finished):
            self.end()
        elif isinstance(event, Warned):
            self._warn(event)

    def end(self) -> None:
        """Finish the line that the answer left open."""
        self._clear_progress()
        held, self._held = self._held or [], None
        for delta in held:
            self._take(delta)
        if self._is_open:
            self._is_open = False
            self._text.end_line()

    def _take(self, delta: Delta) -> None:
        if self._held is not None:
            self._held.append(delta)
            return
        self._clear_progress()
        self._is_open = True
        self._text(delta)

    def _draw(self, event: Progress, line: ProgressLine) -> None:
        try:
            line(event)
        except OSError as gone:
            raise TerminalGone from gone

    def _clear_progress(self) -> None:
        line, self._progress = self._progress, None
        if line is not None:
            with suppress(OSError):
                line.clear()
