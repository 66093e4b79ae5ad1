"""Texts become token ids: short ones at once, long ones in a thread beside the engine's, so that answers go on. Knows no MLX."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import accumulate, count
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, Callable, Union

from mlxk2 import errors
from mlxk2.runner.prompt import Pause, no_pause
from mlxk2.runner.tokenizer import LONG_CHARS
from mlxk2.server.protocol import Count, Embed, Generate

if TYPE_CHECKING:
    from .model import ServedModel

ToRead = Union[Generate, Embed, Count]

# A text goes before one that came earlier if it is shorter by this for each place: no text waits for ever.
_AHEAD_CHARS = 100_000
# What a message, a tool or a field costs a template besides its text.
_EACH_CHARS = 20
# Ids that were given are only looked through.
_IDS_A_CHAR = 8


@dataclass
class WasRead:
    """What the texts of the command `id` came to: a value, or what went wrong."""

    id: str
    value: Any
    error: Exception | None

    def result(self) -> Any:
        """Return the value. Raises: what went wrong."""
        error, self.error = self.error, None
        try:
            if error is not None:
                raise error
            return self.value
        finally:
            # An error that its own traceback holds, and the text with it, would stay for long.
            del error


class _GivenUp(Exception):
    """Nobody wants the text any more that is being read."""


def read(model: ServedModel, command: ToRead, pause: Pause = no_pause) -> Any:
    """Return what a command's texts come to: a ReadPrompt, texts to embed, a count. Raises: as the model's methods do."""
    if isinstance(command, Generate):
        return model.read(command.request, pause)
    if isinstance(command, Embed):
        return model.texts_to_embed(command.inputs, pause)
    return model.count(command.request, pause)


class Reader:
    """Reads long texts in a thread of its own, one after the other, shorter ones first.

    `tell` is called there with what each came to. Its length is how many have neither been finished nor cancelled.
    """

    def __init__(self, model: ServedModel, tell: Callable[[WasRead], None]) -> None:
        self._model, self._tell = model, tell
        self._wanted: dict[str, ToRead] = {}
        # Only ids: texts are large, and some are given up before their turn.
        self._arrived: SimpleQueue[str] = SimpleQueue()
        self._line: list[tuple[int, int, str]] = []
        self._numbers = count()
        self._is_reading = False
        # Python's end would wait for any other thread, and what reads a text cannot be told to end.
        Thread(target=self._work, name="reader", daemon=True).start()

    def __len__(self) -> int:
        return len(self._wanted)

    def take(self, command: ToRead) -> None:
        """Have a command's texts read."""
        self._wanted[command.id] = command
        self._arrived.put(command.id)

    def finish(self, found: WasRead) -> ToRead | None:
        """Return the command whose texts were read; None where it was cancelled meanwhile."""
        return self._wanted.pop(found.id, None)

    def cancel(self, id: str) -> None:
        """Forget a command. What is being read just now is given up with the next part of it."""
        self._wanted.pop(id, None)

    def close(self) -> bool:
        """Forget everything; return whether a text is being read all the same."""
        self._wanted.clear()
        return self._is_reading

    def _work(self) -> None:
        try:
            self._read_on()
        finally:
            # It ends by a library's panic only: no long text would ever be read again.
            os.kill(os.getpid(), signal.SIGABRT)

    def _read_on(self) -> None:
        while True:
            command = self._next()
            if command is not None:
                found = self._outcome(command)
                if found is not None:
                    self._tell(found)
                del found
            # Nothing is held while nothing is read.
            del command
            self._is_reading = False

    def _next(self) -> ToRead | None:
        """Wait for something to read; return what comes first, None where it was given up."""
        while not self._line or not self._arrived.empty():
            id = self._arrived.get()
            command = self._wanted.get(id)
            if command is not None:
                number = next(self._numbers)
                heappush(self._line, (number * _AHEAD_CHARS + sum(_sizes(command)), number, id))
            del command
        self._is_reading = True
        return self._wanted.get(heappop(self._line)[2])

    def _outcome(self, command: ToRead) -> WasRead | None:
        def look() -> None:
            if command.id not in self._wanted:
                raise _GivenUp

        try:
            return WasRead(command.id, read(self._model, command, look), None)
        except _GivenUp:
            return None
        except (errors.MlxkError, *errors.BUGS) as error:
            return WasRead(command.id, None, error)


def is_long(command: ToRead) -> bool:
    """Whether reading a command's texts takes so long that others would notice."""
    return any(total > LONG_CHARS for total in accumulate(_sizes(command)))


def _sizes(command: ToRead) -> Iterator[int]:
    """Yield how much there is to read, in parts, so that nobody need look at all of it."""
    if isinstance(command, Embed):
        yield from map(len, command.inputs)
        return
    request = command.request
    yield len(request.prompt or "") + len(request.suffix or "") + len(request.prompt_ids or ()) // _IDS_A_CHAR
    for message in request.messages or ():
        calls = sum(_EACH_CHARS + len(call.arguments) for call in message.tool_calls)
        yield _EACH_CHARS + len(message.content) + len(message.reasoning or "") + calls
    yield from _parts(request.tools)
    yield from _parts(request.template_variables)


def _parts(value: Any) -> Iterator[int]:
    left = [value]
    while left:
        part = left.pop()
        yield len(part) if isinstance(part, str) else _EACH_CHARS
        if isinstance(part, Mapping):
            left.extend(part.keys())
            left.extend(part.values())
        elif isinstance(part, (list, tuple)):
            left.extend(part)
