"""main(): one command, from argv to the exit code. Every failure becomes visible here, and only here."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from io import StringIO
from types import SimpleNamespace
from typing import Any

from mlxk2.cli.command_line import PROGRAM, CommandLine, HelpAsked, help_or_error
from mlxk2.cli.io import Ending, Io, process_io
from mlxk2.cli.present import CLOSED_PIPE, Context, show_error, show_help
from mlxk2.cli.registry import BY_NAME, Verb, available
from mlxk2.errors import InternalError, Interrupted, MlxkError, UsageError
from mlxk2.settings import Settings


def main(argv: Sequence[str] | None = None, io: Io | None = None) -> int:
    """Run one command and return its exit code. Tests hand in their own `io`; a process uses its streams."""
    words = list(sys.argv[1:] if argv is None else argv)
    if io is not None:
        return _run(words, io)
    try:
        with process_io() as own:
            _end_on_signals(own.ending)
            code = _run(words, own)
    except BrokenPipeError:
        return CLOSED_PIPE
    except KeyboardInterrupt:
        # Its last words were being said already.
        code = Interrupted.exit_code
    if code == Interrupted.exit_code:
        _leave_threads(code)
    return code


def _run(argv: list[str], io: Io) -> int:
    """Dispatch, and turn whatever is raised into words on the right stream and an exit code."""
    line = _without_alias(CommandLine.split(argv))
    settings = Settings.from_env(io.environ)
    if settings.is_silent_rank:
        io = io._replace(stdout=StringIO())
    try:
        return _answer(line, settings, io)
    except BrokenPipeError:
        return CLOSED_PIPE
    except MlxkError as error:
        shown: MlxkError = _with_way_out(error, line)
    except KeyboardInterrupt:
        shown = Interrupted(io.ending.words)
    except Exception as bug:  # noqa: BLE001 - the boundary: a bug must answer in the contract's form too
        shown = _as_internal(bug, settings, io)
    return show_error(shown, line, settings, io)


def _answer(line: CommandLine, settings: Settings, io: Io) -> int:
    try:
        return _dispatch(line, settings, io)
    except HelpAsked as asked:
        return show_help(asked.text, line.json, available(alpha=settings.alpha), io)


def _dispatch(line: CommandLine, settings: Settings, io: Io) -> int:
    if line.verb is None:
        help_or_error(line, alpha=settings.alpha)
    verb = _verb(line, alpha=settings.alpha)
    if line.is_plain and not verb.needs_parser:
        args: Any = SimpleNamespace(json=line.json, quiet=line.quiet)
    else:
        from mlxk2.cli.parser import parse

        args = parse(verb, line)
    code: int = verb.load().run(args, Context(verb.name, args, settings, io, line))
    return code


def _without_alias(line: CommandLine) -> CommandLine:
    """Give a verb the name that answers carry."""
    verb = BY_NAME.get(line.verb or "")
    return line if verb is None else line._replace(verb=verb.name)


def _verb(line: CommandLine, *, alpha: bool) -> Verb:
    word = line.verb or ""
    verb = BY_NAME.get(word)
    if verb is None:
        raise UsageError(f"'{word}' is no command", hint=_closest(word, alpha=alpha))
    if verb.alpha and not alpha:
        raise UsageError(f"'{word}' is an alpha command", hint=f"MLXK2_ENABLE_ALPHA_FEATURES=1 {line.typed}")
    return verb


def _closest(word: str, *, alpha: bool) -> str:
    from difflib import get_close_matches

    found = get_close_matches(word, [verb.name for verb in available(alpha=alpha)], n=1)
    return f"did you mean '{PROGRAM} {found[0]}'?" if found else f"{PROGRAM} --help lists the commands"


def _with_way_out(error: MlxkError, line: CommandLine) -> MlxkError:
    """Point a usage error that names no way out at the command's help."""
    if isinstance(error, UsageError) and error.hint is None:
        error.hint = f"{PROGRAM} {line.verb} --help" if line.verb in BY_NAME else f"{PROGRAM} --help"
    return error


def _as_internal(bug: Exception, settings: Settings, io: Io) -> MlxkError:
    if settings.debug:
        import traceback

        traceback.print_exception(type(bug), bug, bug.__traceback__, file=io.stderr)
    text = f"{type(bug).__name__}: {bug}".strip().replace("\n", " ")
    return InternalError(text[:500], hint="this is a bug of MLX Knife; MLXK2_DEBUG=1 shows where it happened")


def _leave_threads(code: int) -> None:
    """End now, all being said: a library's threads may hang in a connection, and would be waited for."""
    threading = sys.modules.get("threading")
    if threading is not None and threading.active_count() > 1:
        os._exit(code)


def _end_on_signals(ending: Ending) -> None:
    """Let SIGTERM and SIGHUP end a command as Ctrl-C does, so that nothing half done stays behind."""
    import signal

    def interrupt(number: int, _frame: Any) -> None:
        ending.signal_name = signal.Signals(number).name
        raise KeyboardInterrupt(ending.signal_name)

    for number in (signal.SIGTERM, signal.SIGHUP):
        # What the caller ignores, as nohup does with SIGHUP, stays ignored.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupt)
