"""What a person types: lines from a terminal that edits nothing, and messages put together from lines."""

from __future__ import annotations

import re
import select
from contextlib import AbstractContextManager, nullcontext
from typing import Callable, NamedTuple, Protocol, TextIO

from mlxk2.errors import UsageError

PROMPT, CONTINUATION = ">>> ", "... "

_LOOK_EVERY_S = 0.2

_FENCE = '"""'
# A message may stand between fences, and so may what a command is given.
_OPENING = re.compile(r"(?P<command>/[a-z?]+[ \t]+)?" + _FENCE, re.IGNORECASE)


class LineCleared(KeyboardInterrupt):
    """Ctrl-C took away what was typed already."""


class LineSource(Protocol):
    """Where lines come from."""

    def read(self, prompt: str) -> str:
        """Show `prompt` and return what was typed. Raises: EOFError, KeyboardInterrupt, UsageError."""

    def away(self) -> AbstractContextManager[None]:
        """Keep what is typed meanwhile for the next `read`."""

    def stay_away(self) -> None:
        """Do so again, where a shell has had its own settings meanwhile; asked for every now and then."""


class Input(NamedTuple):
    """What was typed. `is_block`: it stood between fences, and is a message whatever it looks like."""

    text: str
    is_block: bool = False


class PlainLines:
    """Reads lines as the terminal gives them, or whatever takes its place."""

    def __init__(self, stdin: TextIO, write: Callable[[str], None]) -> None:
        self._stdin = stdin
        self._write = write
        try:
            self._descriptor: int | None = stdin.fileno()
        except (OSError, ValueError):
            self._descriptor = None

    def read(self, prompt: str) -> str:
        """Show `prompt` and return a line. Raises: EOFError, KeyboardInterrupt, UsageError."""
        self._write(prompt)
        try:
            self._wait()
            line = self._stdin.readline()
        except KeyboardInterrupt:
            self._write("\n")
            raise
        except UnicodeDecodeError as error:
            raise UsageError("that is not UTF-8 text", hint="set the terminal to UTF-8") from error
        except OSError as gone:
            raise EOFError from gone
        if not line:
            self._write("\n")
            raise EOFError
        return line.rstrip("\r\n")

    def _wait(self) -> None:
        """Wait for a line; a signal that comes just before a read would not end it until a key is pressed."""
        while self._descriptor is not None and not select.select([self._descriptor], [], [], _LOOK_EVERY_S)[0]:
            pass

    def away(self) -> AbstractContextManager[None]:
        """The terminal keeps what is typed by itself."""
        return nullcontext()

    def stay_away(self) -> None:
        """Nothing was changed that could be lost."""


def read_input(source: LineSource) -> Input:
    """Read one message or command; three quotes open a block of lines that ends with three quotes.

    Raises: EOFError, KeyboardInterrupt, UsageError.
    """
    text = source.read(PROMPT)
    while opens_block(text):
        text += "\n" + source.read(CONTINUATION)
    opening = _OPENING.match(text)
    if opening is None:
        return Input(text)
    command = opening["command"] or ""
    body = text[opening.end() :].rstrip()[: -len(_FENCE)].strip("\n")
    return Input(command + body, is_block=not command)


def opens_block(text: str) -> bool:
    """Tell whether `text` has opened a block and not ended it."""
    opening = _OPENING.match(text)
    return opening is not None and not text[opening.end() :].rstrip().endswith(_FENCE)
