"""Commands as they arrive, read beside the work so that nothing is missed while the engine computes."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from threading import Thread

from mlxk2.server.protocol import Command, Stop

from .reader import WasRead


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
        """Return what has arrived; where that is nothing, wait so long for it."""
        found: list[Command | WasRead] = []
        with suppress(Empty):
            if wait_s > 0:
                found.append(self._arrived.get(timeout=wait_s))
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
