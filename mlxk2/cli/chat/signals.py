"""What Ctrl-C and the signals to end mean in a chat; all of them would be KeyboardInterrupt otherwise."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class ChatSignals:
    """`to_end`: whether the process is to end, or its terminal has gone; then the chat ends with its answer.

    Handles nothing unless the process is the chat's own.
    """

    def __init__(self, *, owns_process: bool) -> None:
        self.to_end = False
        self._owns_process = owns_process
        self._is_pressed = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Note SIGTERM and SIGHUP meanwhile; what the caller ignores, as nohup does, stays ignored."""
        with self._handling({signal.SIGTERM: self._end, signal.SIGHUP: self._end}):
            yield

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Hold Ctrl-C back until `check` is called between two tokens; pressed again it does not wait.

        A KV cache that is left in the middle of a step is lost, and all that was said would be read again.
        """
        self._is_pressed = False
        with self._handling({signal.SIGINT: self._press}):
            yield

    def check(self) -> None:
        """Let Ctrl-C through. Raises: KeyboardInterrupt where it was pressed."""
        pressed, self._is_pressed = self._is_pressed, False
        if pressed:
            raise KeyboardInterrupt

    def _end(self, *_: Any) -> None:
        self.to_end = True
        raise KeyboardInterrupt

    def _press(self, *_: Any) -> None:
        if self._is_pressed:
            raise KeyboardInterrupt
        self._is_pressed = True

    @contextmanager
    def _handling(self, handlers: dict[signal.Signals, Any]) -> Iterator[None]:
        """Handle signals meanwhile, but those that are ignored."""
        before = {number: signal.getsignal(number) for number in handlers} if self._owns_process else {}
        taken = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
        try:
            for number in taken:
                signal.signal(number, handlers[number])
            yield
        finally:
            for number, handler in taken.items():
                signal.signal(number, handler)
