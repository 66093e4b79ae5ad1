"""Commands as they arrive, read beside the work so that nothing is missed while the engine computes."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from threading import Thread

from mlxk2.server.protocol import Command, Generate, Stop

from .reader import WasRead

# Seconds that a request waits for another one, and for all that come with it, where nothing else is to be done. Of bursts
# of 16 on two busy cores one in six came apart at 2 ms, and one in fifty does at 3.
_NEXT_S, _COMPANY_S = 0.003, 0.03


class Inbox:
    """Reads commands in a thread of its own. Where their sender is gone, the process ends at once: nobody is left."""

    def __init__(self, commands: Connection) -> None:
        self._commands = commands
        self._arrived: SimpleQueue[Command | WasRead] = SimpleQueue()
        Thread(target=self._read, name="inbox", daemon=True).start()

    def put(self, news: WasRead) -> None:
        """Let something arrive from another thread of this process."""
        self._arrived.put(news)

    def take(self, wait_s: float) -> list[Command | WasRead]:
        """Return what has arrived; where that is nothing, wait so long for it.

        Requests that come together then are returned together: their prompts can be read side by side.
        """
        found: list[Command | WasRead] = []
        with suppress(Empty):
            if wait_s > 0:
                found.append(self._arrived.get(timeout=wait_s))
                end = time.monotonic() + _COMPANY_S
                while isinstance(found[-1], Generate) and time.monotonic() < end:
                    found.append(self._arrived.get(timeout=_NEXT_S))
            while not self._arrived.empty():
                found.append(self._arrived.get_nowait())
        return found

    def _read(self) -> None:
        while True:
            try:
                command: Command = self._commands.recv()
            except (EOFError, OSError):
                # No clean end: MLX may be computing, and would be waited for.
                os.kill(os.getpid(), signal.SIGKILL)
            self._arrived.put(command)
            if isinstance(command, Stop):
                return
