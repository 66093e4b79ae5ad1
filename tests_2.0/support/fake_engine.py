"""An engine without a model: it does what the model's name says, in a real process, so that the host can be tried.

Names: "fine" answers; "slow" answers a piece each 10 ms, without end; "crash-N" aborts after N pieces (0: before the first);
"no-start" dies at once; "refuses" cannot be loaded; "late" is ready after half a second; "never" is never ready; "hang" begins
requests and makes no step; "garbage" says bytes that are no message; "odd" says a value that is none; "flood" says 20,000
pieces an answer; "deaf" does not end when asked to; "chatty" prints. What follows a "." only makes the name another.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import deque
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from mlxk2.events import Timing, Usage
from mlxk2.server.protocol import (
    Begun,
    Cancel,
    Count,
    Counted,
    EngineSpec,
    Generate,
    LoadFailed,
    Over,
    Piece,
    Problem,
    Ready,
    Status,
    Stop,
)
from mlxk2.store.model_ref import WORKSPACE, ModelRef

PIECES = 5
TARGET = "support.fake_engine:run"


def spec_of(name: str) -> EngineSpec:
    """What the host is told of a model that this engine plays."""
    return EngineSpec(ModelRef(name, Path("/nowhere") / name, None, WORKSPACE))


def run(spec: EngineSpec, commands: Connection, events: Connection) -> None:
    """Be the engine."""
    _Player(spec.ref.own_name.partition(".")[0], commands, events).run()


class _Player:
    def __init__(self, part: str, commands: Connection, events: Connection) -> None:
        self.part, _, count = part.partition("-")
        self.crash_after = int(count) if count.isdecimal() else -1
        self.commands, self.events = commands, events
        self.todo: deque[Any] = deque()
        self.stirred = threading.Condition()
        self.steps = 0

    def run(self) -> None:
        self.begin()
        threading.Thread(target=self.listen, daemon=True).start()
        active: dict[str, int] = {}
        while self.obey(active):
            self.step(active)

    def begin(self) -> None:
        if self.part == "no":
            os.abort()
        if self.part == "refuses":
            self.events.send((LoadFailed(Problem("insufficient_memory", "too big", "buy more", 413, {"need": 7})),))
            sys.exit(0)
        if self.part == "never":
            threading.Event().wait()
        if self.part == "late":
            threading.Event().wait(0.5)
        if self.part == "chatty":
            print("a line that an engine prints", flush=True)
        self.events.send((Ready(256, 1000, True, False, False, False),))

    def listen(self) -> None:
        while True:
            try:
                command = self.commands.recv()
            except EOFError:
                command = Stop()
            with self.stirred:
                self.todo.append(command)
                self.stirred.notify()
            if isinstance(command, Stop):
                return

    def obey(self, active: dict[str, int]) -> bool:
        """Take what was ordered; False when this is the end."""
        with self.stirred:
            while not self.todo and not active:
                self.stirred.wait()
            orders = list(self.todo)
            self.todo.clear()
        for order in orders:
            if isinstance(order, Stop) and self.part == "deaf":
                signal.pause()
            if isinstance(order, Stop):
                return False
            if isinstance(order, Generate):
                active[order.id] = 0
                if self.part == "hang":
                    self.events.send((Begun(order.id, 3, 0),))
            elif isinstance(order, Cancel):
                active.pop(order.id, None)
                self.tell_status(active)
            elif isinstance(order, Count):
                self.events.send((Counted(order.id, 3),))
        return True

    def step(self, active: dict[str, int]) -> None:
        """One piece for each answer in the making."""
        if not active:
            return
        if self.part == "hang":
            threading.Event().wait()
        if self.part == "garbage":
            self.events.send_bytes(b"this is no pickle")
        if self.part == "odd":
            self.events.send(("what is this",))
        self.steps += 1
        told: list[Any] = []
        for id, said in list(active.items()):
            if said == self.crash_after:
                os.abort()
            told += self.say(id, said)
            active[id] += 1
            if said + 1 >= PIECES and self.part != "slow":
                told.append(Over(id, "stop", Usage(3, PIECES, 3 + PIECES), Timing(0.0, 0.0)))
                del active[id]
        self.events.send(tuple(told))
        self.tell_status(active)
        if self.part == "slow":
            with self.stirred:
                self.stirred.wait(0.01)

    def say(self, id: str, said: int) -> list[Any]:
        if said == 0:
            self.events.send((Begun(id, 3, 0),))
        if self.part == "flood" and said == 0:
            for number in range(20_000):
                self.events.send((Piece(id, "answer", str(number)),))
        return [Piece(id, "answer", f"{said} ")]

    def tell_status(self, active: dict[str, int]) -> None:
        self.events.send((Status(len(active), 0, self.steps, 0, 0, 0, 0, 0, 0),))
