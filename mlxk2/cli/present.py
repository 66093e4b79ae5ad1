"""Show what an operation gives: drive its events, then print the answer as JSON or for people."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from mlxk2 import envelope
from mlxk2.cli.command_line import CommandLine
from mlxk2.cli.io import Io, is_terminal, width_of, write
from mlxk2.driving import Sink
from mlxk2.errors import Interrupted, MlxkError, OutputFailed, UsageError
from mlxk2.settings import Settings

if TYPE_CHECKING:
    from mlxk2.cli.registry import Verb

CLOSED_PIPE = 141  # 128 + SIGPIPE, what a shell reports for any program that loses its reader


class Context(NamedTuple):
    """What a command module works with besides its own arguments."""

    verb: str
    args: Any
    settings: Settings
    io: Io
    line: CommandLine

    @property
    def json(self) -> bool:
        return bool(self.args.json) or self.stream_json

    @property
    def stream_json(self) -> bool:
        """Whether every event is a line of JSON on stdout, and the answer the last one."""
        return bool(getattr(self.args, "stream_json", False))

    @property
    def interactive(self) -> bool:
        """Whether a person can be asked a question."""
        return not self.json and is_terminal(self.io.stdin) and is_terminal(self.io.stderr)


def present(context: Context, result: Any) -> int:
    """Print the result of an operation, after its progress has left the screen. Returns the exit code."""
    answer = envelope.success(context.verb, result)
    if context.json:
        write_json(context.io, answer, one_line=context.stream_json)
    else:
        render(context, answer["data"])
    return 0


@contextmanager
def progress_sink(context: Context) -> Iterator[Sink | None]:
    """Give a sink that draws progress where a person looks at stderr, else None."""
    if context.json or context.args.quiet or not is_terminal(context.io.stderr):
        yield None
        return
    from mlxk2.output.stream import ProgressLine

    line = ProgressLine(context.io.stderr, partial(width_of, context.io.stderr, context.io))
    try:
        yield line
    finally:
        line.clear()


@contextmanager
def event_sink(context: Context) -> Iterator[Sink | None]:
    """Give a sink for long work: bars where a person looks at stderr, lines of JSON with --stream-json.

    Warnings reach people in any case, unless they asked for quiet.
    """
    if context.stream_json:
        from mlxk2.output.event_lines import EventLines

        yield EventLines(partial(write, context.io.stdout))
        return
    if context.json or context.args.quiet:
        yield None
        return
    from mlxk2.output.stream import Warnings

    warnings = Warnings(partial(write, context.io.stderr))
    if not is_terminal(context.io.stderr):
        yield warnings
        return
    from mlxk2.output.bars import Bars

    with Bars(context.io.stderr, color=_takes_color(context.io.stderr, context.settings)) as bars:
        yield bars


def ask(context: Context, question: str) -> bool:
    """Ask a person a question on stderr; anything but yes is no."""
    from mlxk2.text import one_line

    context.io.stderr.write(f"{one_line(question)} [y/N] ")
    context.io.stderr.flush()
    return context.io.stdin.readline().strip().lower() in ("y", "yes")


def write_json(io: Io, answer: dict[str, Any], *, one_line: bool = False) -> None:
    """Print the answer of this command."""
    write(io.stdout, envelope.to_json(answer, one_line=one_line) + "\n")


def render(context: Context, data: dict[str, Any]) -> None:
    """Print a payload for people."""
    from mlxk2.output.render import render as render_payload

    render_payload(context.verb, data, vars(context.args), view_of(context.io, context.settings))


def view_of(io: Io, settings: Settings, stream: TextIO | None = None) -> Any:
    """Describe the place that human output goes to: stdout, unless it is another stream."""
    from mlxk2.output.view import View

    stream = stream or io.stdout
    on_terminal = is_terminal(stream)
    width = settings.columns or io.width if on_terminal else settings.columns
    return View(partial(write, stream), width, _takes_color(stream, settings), on_terminal, io.clock())


def _takes_color(stream: TextIO, settings: Settings) -> bool:
    return not settings.no_color and (settings.force_color or is_terminal(stream))


def show_error(error: MlxkError, line: CommandLine, settings: Settings, io: Io) -> int:
    """Print an error where its readers look: an envelope on stdout, or two lines on stderr."""
    if settings.is_silent_rank:
        return _tell_as_peer(error, settings, io)
    try:
        # Where an answer could not be written, no other can; a file that could not is told of as any error.
        is_unheard = isinstance(error, OutputFailed) and "file" not in error.extra
        if (line.json or line.stream_json) and not is_unheard:
            write_json(io, envelope.failure(line.verb, error), one_line=line.stream_json)
        else:
            _tell(error, settings, io)
    except BrokenPipeError:
        return CLOSED_PIPE
    except OutputFailed as unheard:
        _tell(unheard, settings, io)
    return error.exit_code


def _tell_as_peer(error: MlxkError, settings: Settings, io: Io) -> int:
    """Say on stderr what rank 0 cannot know: what all ranks fail with alike, or agreed on, is rank 0's to say."""
    if not isinstance(error, (UsageError, Interrupted)) and "rank" not in error.extra:
        rank = settings.ranks.rank if settings.ranks is not None else 0
        _tell(MlxkError(f"rank {rank}: {error.message}", hint=error.hint), settings, io)
    return error.exit_code


def _tell(error: MlxkError, settings: Settings, io: Io) -> None:
    """Write an error on stderr; where that takes no word either, the exit code is all that is left."""
    from mlxk2.output.errors import error_lines

    with suppress(OutputFailed):
        write(io.stderr, error_lines(error.message, error.hint, _takes_color(io.stderr, settings)))


def show_help(text: str, as_json: bool, verbs: tuple[Verb, ...], io: Io) -> int:
    """Print help; in JSON mode as the answer of no command."""
    if as_json:
        write_json(io, envelope.success(None, {"usage": text, "commands": [verb.name for verb in verbs]}))
    else:
        write(io.stdout, text)
    return 0
