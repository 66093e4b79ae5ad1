"""What Ctrl-C and the signals to end mean in a chat; all of them would be KeyboardInterrupt otherwise."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable


class ChatSignals:
    """Raises KeyboardInterrupt where Ctrl-C means something, and nowhere else.

    `to_end`: whether the process is to end, or its terminal has gone; then the chat ends with its answer.
    Nothing is handled unless the process is the chat's own.
    """

    def __init__(self, *, owns_process: bool) -> None:
        self.to_end = False
        self._owns_process = owns_process
        self._presses = 0
        self._on_press: Callable[[], None] = _interrupt
        self._on_end: Callable[[], None] = _interrupt

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Take the signals meanwhile, but those that the caller ignores, as nohup does.

        Ctrl-C means nothing afterwards: a key that is held down would else break off what is left to do.
        """
        handlers = {signal.SIGINT: self._press, signal.SIGTERM: self._end, signal.SIGHUP: self._end}
        before = {number: signal.getsignal(number) for number in handlers} if self._owns_process else {}
        taken = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
        try:
            for number in taken:
                signal.signal(number, handlers[number])
            yield
        finally:
            for number, handler in taken.items():
                signal.signal(number, signal.SIG_IGN if number is signal.SIGINT else handler)

    def between(self) -> None:
        """Let Ctrl-C mean nothing, but while the person types or the model answers."""
        self._on_press, self._on_end = _ignore, _interrupt

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Let Ctrl-C interrupt what is being read."""
        self._on_press = _interrupt
        try:
            yield
        finally:
            self._on_press = _ignore

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Hold Ctrl-C back until `check` is called between two tokens; pressed again it does not wait.

        A KV cache that is left in the middle of a step is lost, and all that was said would be read again.
        """
        self._presses, self._on_press = 0, self._hold
        try:
            yield
        finally:
            self._on_press = _ignore

    @contextmanager
    def leaving_by(self, leave: Callable[[], None]) -> Iterator[None]:
        """Let all signals call `leave` meanwhile, where an exception would strike in the midst of foreign code."""
        self._on_press = self._on_end = leave
        try:
            yield
        finally:
            self._on_press = self._on_end = _interrupt

    def check(self) -> None:
        """Let Ctrl-C through, once. Raises: KeyboardInterrupt where it was pressed."""
        if self._presses == 1:
            self._presses += 1
            raise KeyboardInterrupt

    def _press(self, *_: Any) -> None:
        self._on_press()

    def _hold(self) -> None:
        self._presses += 1
        if self._presses == 2:
            raise KeyboardInterrupt

    def _end(self, *_: Any) -> None:
        if not self.to_end:
            self.to_end = True
            self._on_end()


def _interrupt() -> None:
    raise KeyboardInterrupt


def _ignore() -> None:
    """Take no notice."""
