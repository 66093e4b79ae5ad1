"""From the command line to a chat: flags, the model, where lines come from."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from mlxk2.cli import run_flags
from mlxk2.cli.present import Context
from mlxk2.errors import Interrupted, UsageError
from mlxk2.operations.chat import ChatOptions, ChatSession, prepare_chat
from mlxk2.operations.chat_settings import ChatSettings
from mlxk2.store.resolve import find_model

from .history import HistoryFile
from .lines import LineSource, PlainLines
from .loop import Chat
from .screen import Screen, TerminalGone
from .signals import ChatSignals

if TYPE_CHECKING:
    from .editor import Editor

# What a single answer may be asked for, and a chat may not.
_SINGLE = ("json_schema", "regex", "choices", "logprobs", "prompt_cache", "no_chat_template")


def chat(args: argparse.Namespace, context: Context) -> int:
    """Talk at the terminal until the person leaves; return the exit code.

    Raises: UsageError, and what keeps a model from being run.
    """
    settings = context.settings
    options = _options(args, context)
    plan = prepare_chat(find_model(args.model, settings), options, fast_start=settings.fast_start)
    editor = _editor_type(context)
    screen = Screen(context, can_redraw=editor is not None)
    signals = ChatSignals(owns_process=context.io.owns_process)
    source = _source(editor, context, screen, signals)
    try:
        with signals.watched(), ChatSession(plan) as session:
            with source.away(), screen.working(f"loading {session.model} ..."):
                session.load()
            _greet(session, screen)
            talk = Chat(session, screen, source, signals)
            talk.shows_figures = args.verbose
            return talk.run()
    except TerminalGone:
        return Interrupted.exit_code


def _options(args: argparse.Namespace, context: Context) -> ChatOptions:
    """Read what a chat needs. Raises: UsageError naming the flag."""
    for name in _SINGLE:
        if getattr(args, name) not in (None, False):
            flag = "--" + name.replace("_", "-")
            raise UsageError(f"{flag} is for a single answer, not for a chat", hint=run_flags.one_answer(args.model))
    draft = None if args.draft_model is None else find_model(args.draft_model, context.settings)
    own = ChatSettings(
        sampling=run_flags.sampling_of(args),
        system=args.system,
        max_tokens=args.max_tokens,
        stop=tuple(args.stop),
        keep_context=args.keep_context,
    )
    return ChatOptions(own, run_flags.engine_of(args, draft), draft, args.force)


def _editor_type(context: Context) -> type[Editor] | None:
    """Return what edits lines: for a real terminal that can move its cursor, where prompt_toolkit is installed."""
    try:
        context.io.stdin.fileno()
    except (OSError, ValueError):
        return None
    if not context.settings.can_edit_lines:
        return None
    try:
        from .editor import Editor
    except ImportError:
        return None
    return Editor


def _source(editor: type[Editor] | None, context: Context, screen: Screen, signals: ChatSignals) -> LineSource:
    if editor is None:
        return PlainLines(context.io.stdin, screen.write)
    history = None if context.args.no_history else _history(context, screen)
    return editor(context.io.stdin, screen.terminal, history, signals, color=not context.settings.no_color)


def _history(context: Context, screen: Screen) -> HistoryFile | None:
    path = context.settings.state_folder / "chat_history"
    try:
        return HistoryFile(path)
    except OSError as error:
        screen.note(f"what you type is not kept for the next chat: {error.strerror}: {path}")
        return None


def _greet(session: ChatSession, screen: Screen) -> None:
    screen.note(
        f"{session.model}, {session.context_length} tokens of context. /help lists the commands, Ctrl-D leaves."
    )
    if not session.is_chat_model:
        screen.note("It was not made to talk: it goes on with the conversation as with any text.")
    screen.note("")
