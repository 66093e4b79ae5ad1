"""The engine's messages as the event loop reads them: from a pipe, without a thread, and no faster than they are dealt with."""

from __future__ import annotations

import asyncio
import os
import pickle
import struct
from multiprocessing.connection import Connection
from typing import Any, Callable

# What reading a message that is none may raise.
GARBAGE = (pickle.UnpicklingError, AttributeError, ImportError, LookupError, ValueError, TypeError, MemoryError)

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
        if not came:
            self._end(None)
            return
        self._unread += came
        try:
            messages = list(map(pickle.loads, self._whole_messages()))
        except GARBAGE as error:
            self._end(error)
            return
        for message in messages:
            self._on_message(message)

    def _whole_messages(self) -> list[bytes]:
        """Take the messages that have come whole. Raises: ValueError where it is none."""
        found, place, unread = [], 0, self._unread
        while len(unread) >= place + _LENGTH.size:
            (length,) = _LENGTH.unpack_from(unread, place)
            if length < 0:
                raise ValueError("a message of more than 2 GiB")
            end = place + _LENGTH.size + length
            if len(unread) < end:
                break
            found.append(bytes(unread[place + _LENGTH.size : end]))
            place = end
        del unread[:place]
        return found

    def _end(self, problem: Exception | None) -> None:
        self.close()
        self._on_end(problem)
