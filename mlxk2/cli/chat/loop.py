"""The chat: reads a line, asks the model or obeys, and begins again, until the person leaves."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import suppress

from mlxk2.errors import Interrupted, MlxkError
from mlxk2.events import Event
from mlxk2.operations.chat import ChatSession
from mlxk2.operations.chat_settings import in_chat_words
from mlxk2.operations.chat_turns import INTERRUPTED, Turn
from mlxk2.output.stream import INTERRUPTED_LINE

from .commands import LEAVING_WORDS, parsed
from .figures import last_answer
from .lines import Input, LineCleared, LineSource, read_input
from .screen import Screen
from .signals import ChatSignals


class Chat:
    """One chat at a terminal; `ended` is set by whatever ends it."""

    def __init__(self, session: ChatSession, screen: Screen, source: LineSource, signals: ChatSignals) -> None:
        self.session = session
        self.screen = screen
        self.ended = False
        self.shows_figures = False
        self._source = source
        self._signals = signals
        self._is_reading = False
        self._presses = 0

    def run(self) -> int:
        """Talk until the person leaves; return the exit code.

        Ctrl-C ends an answer, or clears the line; at the prompt twice in a row it ends the chat, as its end of input
        does: with success. Only a signal to end is an interruption.

        Raises: TerminalGone.
        """
        while not (self.ended or self._signals.to_end):
            # What is not dealt with within was pressed at a moment when it means nothing.
            with suppress(KeyboardInterrupt):
                self._signals.between()
                self._go_on()
        self._signals.between()
        return Interrupted.exit_code if self._signals.to_end else 0

    def answer(self, steps: Generator[Event, None, Turn]) -> None:
        """Show an answer as it comes. Raises: MlxkError, KeyboardInterrupt."""
        with self._source.away(), self._signals.answering():
            turn = self.screen.answer(steps, self._between_tokens)
        if self._signals.to_end or turn.reason == INTERRUPTED:
            raise KeyboardInterrupt
        if self.shows_figures:
            self.screen.dim(last_answer(turn, self.session.context_length))

    def _between_tokens(self) -> None:
        self._source.stay_away()
        self._signals.check()

    def _go_on(self) -> None:
        """Take one line, and whatever comes of it."""
        try:
            self._step()
        except KeyboardInterrupt as pressed:
            self._signals.between()
            self._pressed(isinstance(pressed, LineCleared))
        except MlxkError as error:
            error.message = in_chat_words(error.message)
            self.screen.error(error)
            self.screen.say()

    def _step(self) -> None:
        typed = self._read()
        if typed is None:
            self.ended = True
        elif typed.is_block:
            self._ask(typed.text)
        else:
            self._obey_or_ask(typed.text)

    def _read(self) -> Input | None:
        """Read what the person types; None where nothing more is to come."""
        self._is_reading = True
        try:
            with self._signals.reading():
                typed = read_input(self._source)
        except EOFError:
            return None
        self._is_reading, self._presses = False, 0
        return None if self._signals.to_end else typed

    def _obey_or_ask(self, text: str) -> None:
        called = parsed(text)
        if called is not None:
            command, words = called
            command.run(self, words)
            self.screen.say()
        elif text.strip() in LEAVING_WORDS:
            self.ended = True
        else:
            self._ask(text)

    def _ask(self, text: str) -> None:
        if text.strip():
            self.answer(self.session.ask(text.strip()))
            self.screen.say()

    def _pressed(self, line_cleared: bool) -> None:
        """Ctrl-C: whatever was going on is over."""
        if self._signals.to_end:
            return
        if not self._is_reading:
            self.screen.say(INTERRUPTED_LINE)
            self.screen.say()
            return
        self._presses = 1 if line_cleared else self._presses + 1
        if self._presses == 1:
            self.screen.note("(Ctrl-C once more, or Ctrl-D, ends the chat)")
        else:
            self.ended = True
