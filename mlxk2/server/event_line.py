"""The engine's messages as the event loop reads them: from a pipe, without a thread, and no faster than they are dealt with."""

from __future__ import annotations

import asyncio
import os
import pickle
import struct
from multiprocessing.connection import Connection
from typing import Any, Callable

from mlxk2.errors import BUGS

# What reading a message that is none may raise.
_GARBAGE = (*BUGS, EOFError, pickle.UnpicklingError)

# How a Connection writes a message: its length, then so many bytes. Source: CPython, multiprocessing/connection.py.
_LENGTH = struct.Struct("!i")
# Bytes that are read before the loop does something else.
_AT_ONCE = 2**18


class EventLine:
    """Calls `on_message` with what each message says, at last `on_end`: with what was wrong, or None where the line ended.

    Made in the event loop's thread, where everything is called.
    """

    def __init__(
        self, line: Connection, on_message: Callable[[Any], None], on_end: Callable[[Exception | None], None]
    ) -> None:
        self._line, self._on_message, self._on_end = line, on_message, on_end
        self._unread = bytearray()
        self._loop = asyncio.get_running_loop()
        os.set_blocking(line.fileno(), False)
        self._loop.add_reader(line.fileno(), self._read)

    def close(self) -> None:
        """Read no more; nothing is called any more."""
        if not self._line.closed:
            self._loop.remove_reader(self._line.fileno())
            self._line.close()

    def _read(self) -> None:
        try:
            came = os.read(self._line.fileno(), _AT_ONCE)
        except BlockingIOError:
            return
        except OSError:
            came = b""
        self._unread += came
        if came:
            self._deliver()
        else:
            self._end(None)

    def _deliver(self) -> None:
        """Deal with the messages that have come whole, one after the other."""
        is_done = False
        try:
            while not self._line.closed and (message := self._take()) is not None:
                try:
                    event = pickle.loads(message)
                except _GARBAGE as error:
                    self._end(error)
                else:
                    self._on_message(event)
            is_done = True
        finally:
            if not is_done:
                # Whoever failed with one message hears the others all the same.
                self._loop.call_soon(self._deliver)

    def _take(self) -> bytes | None:
        """Return the next message, None where it has not come whole."""
        unread = self._unread
        if len(unread) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(unread)
        # One of more than 2 GiB is written otherwise, and is none of ours.
        end = _LENGTH.size + max(length, 0)
        if len(unread) < end:
            return None
        message = bytes(unread[_LENGTH.size : end])
        del unread[:end]
        return message

    def _end(self, problem: Exception | None) -> None:
        self.close()
        self._on_end(problem)
