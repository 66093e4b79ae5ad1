"""The engine process from its start to its end: load, then commands in and events out between the steps."""

from __future__ import annotations

import os
import time
import traceback
from multiprocessing.connection import Connection
from typing import Any

from mlxk2 import errors
from mlxk2.runner.speech import backend
from mlxk2.server.protocol import (
    Cancel,
    Counted,
    Embed,
    EngineSpec,
    Failed,
    Generate,
    LoadFailed,
    Problem,
    Stop,
)

from .inbox import Inbox
from .model import ServedModel
from .outbox import Outbox
from .reader import Reader, ToRead, WasRead, is_long, read
from .scheduler import Scheduler

_STATUS_EVERY_S = 1.0


def run_engine(spec: EngineSpec, commands: Connection, events: Connection) -> None:
    """Load a model and answer until Stop comes; where `commands` ends without it, the process ends at once.

    Each message on `events` is a tuple of events.
    """
    inbox = Inbox(commands)
    try:
        model = ServedModel(spec)
    except errors.MlxkError as error:
        events.send((LoadFailed(Problem.of(error)),))
        return
    loop = _Loop(model, inbox, events)
    try:
        loop.run()
    finally:
        model.close()
        backend().end_thread()
    if loop.close():
        os._exit(0)  # noqa: TID251 - the thread would wake up in what Python's end has left of it


class _Loop:
    def __init__(self, model: ServedModel, inbox: Inbox, events: Connection) -> None:
        self._model = model
        self._inbox = inbox
        self._outbox = Outbox(events)
        self._reader = Reader(model, inbox.put)
        self._scheduler = Scheduler(model, self._reader)
        self._outbox.put((model.ready,))
        self._next_status = 0.0
        self._was_busy = False

    def run(self) -> None:
        while True:
            self._send(can_wait=self._scheduler.is_even)
            commands = self._inbox.take(0.0 if self._scheduler.is_busy else self._until_status())
            for command in commands:
                if isinstance(command, Stop):
                    return
                self._obey(command)
            if commands:
                # What they set off may take long.
                self._send(can_wait=False)
            self._scheduler.step()

    def close(self) -> bool:
        """Give everything up; return whether another thread cannot, since it is reading a text."""
        return self._reader.close()

    def _obey(self, command: ToRead | WasRead | Cancel) -> None:
        """Do what one request wants; what is wrong with it is its own affair."""
        try:
            if isinstance(command, Cancel):
                self._outbox.forget(command.id)
                self._reader.cancel(command.id)
                self._scheduler.cancel(command.id)
            elif isinstance(command, WasRead):
                self._go_on(command)
            else:
                self._read(command)
        except errors.MlxkError as error:
            self._outbox.put((Failed(command.id, Problem.of(error)),))
        except errors.BUGS as error:
            traceback.print_exc()
            bug = errors.InternalError(f"{type(error).__name__}: {error}")
            self._outbox.put((Failed(command.id, Problem.of(bug)),))

    def _read(self, command: ToRead) -> None:
        takes_long = is_long(command)
        if takes_long or isinstance(command, Generate):
            self._scheduler.check_queue()
        if takes_long:
            self._reader.take(command)
        else:
            self._begin(command, read(self._model, command))

    def _go_on(self, found: WasRead) -> None:
        command = self._reader.finish(found)
        if command is not None:
            self._begin(command, found.result())

    def _begin(self, command: ToRead, found: Any) -> None:
        """Go on with a command whose texts were read."""
        if isinstance(command, Generate):
            self._scheduler.generate(command, found)
        elif isinstance(command, Embed):
            self._scheduler.embed(command.id, found)
        else:
            self._outbox.put((Counted(command.id, found),))

    def _send(self, *, can_wait: bool) -> None:
        is_due = self._outbox.is_due() or not can_wait
        self._outbox.put(self._scheduler.events(with_text=is_due))
        now, is_busy = time.monotonic(), self._scheduler.is_busy
        if now >= self._next_status or is_busy is not self._was_busy:
            self._next_status, self._was_busy = now + _STATUS_EVERY_S, is_busy
            self._outbox.put((self._scheduler.status(),))
        self._outbox.send(is_due=is_due)

    def _until_status(self) -> float:
        return max(self._next_status - time.monotonic(), 0.001)
