"""Lines from a real terminal: edited, completed, recalled. The only importer of prompt_toolkit."""

from __future__ import annotations

import os
import signal
import termios
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.completion import Completer, Completion, PathCompleter
from prompt_toolkit.data_structures import Size
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import Condition, has_focus
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input import create_input
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.output.vt100 import Vt100_Output

from .commands import COMMANDS, SlashCommand
from .history import HistoryFile
from .lines import CONTINUATION, LineCleared, opens_block
from .signals import ChatSignals

_MENU_LINES = 8


class Editor:
    """Reads messages of one or more lines, and leaves the terminal as it was."""

    def __init__(
        self, stdin: TextIO, terminal: TextIO, history: HistoryFile | None, signals: ChatSignals, *, color: bool
    ) -> None:
        self._stdin = stdin
        self._history = history
        self._signals = signals
        self._is_left = False
        self._session: PromptSession[str] = PromptSession(
            input=create_input(stdin),
            # Without asking for the cursor's position: an answer that comes late would look like typing.
            output=_Output(terminal, lambda: _size(terminal), enable_cpr=False),
            color_depth=None if color else ColorDepth.DEPTH_1_BIT,
            history=InMemoryHistory(list(history.entries) if history is not None else []),
            completer=_Completer(),
            complete_while_typing=Condition(_types_a_command),
            reserve_space_for_menu=_MENU_LINES,
            key_bindings=_keys(),
            multiline=True,
            prompt_continuation=CONTINUATION,
            search_ignore_case=True,
            enable_suspend=True,
        )

    def read(self, prompt: str) -> str:
        """Show `prompt` and return what was typed. Raises: EOFError, KeyboardInterrupt."""
        self._is_left = False
        try:
            with self._signals.leaving_by(self._leave):
                typed = self._session.prompt(
                    prompt, pre_run=self._leave_if_asked, set_exception_handler=False, handle_sigint=False
                )
            if self._is_left:
                raise KeyboardInterrupt
        except (OSError, termios.error) as gone:
            raise EOFError from gone
        except KeyboardInterrupt as pressed:
            if self._session.default_buffer.text:
                raise LineCleared from pressed
            raise
        # Bytes that are no UTF-8 arrive as surrogates.
        text = str(typed).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        if self._history is not None:
            self._history.add(text)
        return text

    def _leave(self) -> None:
        """End `read` from a signal handler, which must not raise in the midst of an event loop."""
        self._is_left = True
        loop = self._session.app.loop
        if loop is not None:
            # A loop that is closed has ended by itself.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._leave_if_asked)

    def _leave_if_asked(self) -> None:
        app = self._session.app
        if self._is_left and app.future is not None and not app.future.done():
            app.exit(exception=KeyboardInterrupt)

    @contextmanager
    def away(self) -> Iterator[None]:
        """Let the terminal keep keys without showing them; Ctrl-C stays a signal."""
        descriptor = self._stdin.fileno()
        try:
            before = termios.tcgetattr(descriptor)
        except termios.error:
            yield
            return
        _silence(descriptor)
        # A shell that brings the chat back to the foreground has had its own settings meanwhile.
        resumed = signal.signal(signal.SIGCONT, lambda *_: _silence(descriptor))
        try:
            yield
        finally:
            signal.signal(signal.SIGCONT, resumed)
            with suppress(termios.error):
                termios.tcsetattr(descriptor, termios.TCSADRAIN, before)

    def stay_away(self) -> None:
        """Switch the echo off again: a job that comes back from the background is not always told so by a signal."""
        _silence(self._stdin.fileno())


def _silence(descriptor: int) -> None:
    """Switch the echo off, where the terminal is ours: a job in the background would be stopped for it."""
    with suppress(termios.error, OSError):
        silent = termios.tcgetattr(descriptor)
        if silent[3] & (termios.ECHO | termios.ICANON) and os.tcgetpgrp(descriptor) == os.getpgrp():
            silent[3] &= ~(termios.ECHO | termios.ICANON)
            termios.tcsetattr(descriptor, termios.TCSADRAIN, silent)


class _Output(Vt100_Output):  # type: ignore[misc]
    """Shows nothing any more once the terminal has gone, rather than fail in the midst of an event loop."""

    def flush(self) -> None:
        """Show what is waiting."""
        with suppress(OSError):
            super().flush()


class _Completer(Completer):  # type: ignore[misc]
    """Completes commands, what they can be given, and the names of files."""

    def __init__(self) -> None:
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: Any) -> Iterable[Completion]:
        """Yield what may follow the cursor."""
        text = document.text_before_cursor
        if not text.startswith("/") or "\n" in text:
            return
        name, space, words = text[1:].partition(" ")
        if not space:
            for command in COMMANDS:
                if command.name.startswith(name):
                    yield _completion(command, len(name))
            return
        called = next((command for command in COMMANDS if command.name == name), None)
        if called is not None and called.takes_path:
            yield from self._paths.get_completions(Document(words, len(words)), complete_event)
        elif called is not None and " " not in words:
            yield from (Completion(value, -len(words)) for value in called.values if value.startswith(words))


def _completion(command: SlashCommand, typed: int) -> Completion:
    text = command.name + (" " if command.arguments else "")
    return Completion(text, -typed, display=f"/{command.name}", display_meta=command.summary)


def _types_a_command() -> bool:
    return str(get_app().current_buffer.text).startswith("/")


def _send(event: Any) -> None:
    """Hand the message over, unless a block is open."""
    buffer = event.current_buffer
    if opens_block(buffer.text):
        buffer.insert_text("\n")
    else:
        buffer.validate_and_handle()


def _begin_line(event: Any) -> None:
    event.current_buffer.insert_text("\n")


def _keys() -> KeyBindings:
    """Enter sends; Alt+Enter, which is Escape and Enter to a terminal, begins a new line."""
    keys = KeyBindings()
    typing = has_focus(DEFAULT_BUFFER)
    keys.add("enter", filter=typing)(_send)
    keys.add("escape", "enter", filter=typing)(_begin_line)
    return keys


def _size(terminal: TextIO) -> Size:
    try:
        size = os.get_terminal_size(terminal.fileno())
    except (OSError, ValueError):
        return Size(rows=24, columns=80)
    return Size(rows=size.lines or 24, columns=size.columns or 80)
