"""An engine process as the event loop sees it: commands go in, events come out, and its end is told. Nothing here waits.

Threads wait instead: one writes commands, one reads what the engine prints, and in the end one sees the process off.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Collection
from contextlib import ExitStack, suppress
from functools import partial
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import IO, Any, Callable, Protocol, Union

from mlxk2.errors import InternalError
from mlxk2.server.event_line import EventLine
from mlxk2.server.protocol import Command, Count, Embed, EngineSpec, Failed, Generate, Problem, Stop

ENGINE = "mlxk2.server.engine:run_engine"
LOG = logging.getLogger("mlxk2.server.engine")

# In the child: find the same modules, then do the work.
_BOOT = """import json, sys
sys.path[:] = json.loads(sys.argv[1])
from mlxk2.server.engine_boot import be_engine
be_engine(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
"""

# Seconds between the end of what an engine says and its own end.
_GRACE_S = 2.0
_LONGEST_LINE = 2000


class Listener(Protocol):
    """Who hears of an engine; called in the event loop's thread."""

    def heard(self, events: Any) -> None:
        """Take what the engine said: a tuple of events, if it is sound."""
        ...

    def ended(self, how: str) -> None:
        """Take note that the process is gone; nothing follows."""
        ...


class EngineHandle(Protocol):
    """What can be done to an engine."""

    @property
    def pid(self) -> int: ...

    def send(self, command: Command) -> None:
        """Hand over a command, at once."""
        ...

    def stop(self) -> None:
        """Ask it to end."""
        ...

    def kill(self) -> None:
        """End it."""
        ...


StartEngine = Callable[[EngineSpec, Listener], EngineHandle]


class EngineProcess:
    """A process of its own session, so that Ctrl-C on a terminal does not reach it. Made in the event loop's thread."""

    def __init__(self, spec: EngineSpec, listener: Listener, target: str = ENGINE) -> None:
        self._listener, self._loop = listener, asyncio.get_running_loop()
        self._to_send: SimpleQueue[Union[bytes, Command, None]] = SimpleQueue()
        self._to_send.put(pickle.dumps(spec))
        self._process, self._commands, events = _spawn(target)
        started: list[str] = []
        with ExitStack() as undo:
            undo.callback(self._undo, started)
            undo.callback(events.close)
            for name, work in (("write", self._write), ("log", self._log)):
                _begin(name, work)
                started.append(name)
            self._events = EventLine(events, listener.heard, self._see_off)
            undo.pop_all()

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, command: Command) -> None:
        """Hand over a command, at once."""
        self._to_send.put(command)

    def stop(self) -> None:
        """Ask it to end; no command may follow."""
        self.send(Stop())
        self._to_send.put(None)

    def kill(self) -> None:
        """End it, whatever it is doing."""
        self._process.kill()

    def _undo(self, started: Collection[str]) -> None:
        """Leave no process and no open end, where only those threads were `started` that watch over them."""
        self._process.kill()
        self._process.wait()
        self._to_send.put(None)
        if "write" not in started:
            self._commands.close()
        for end in (self._process.stdin, None if "log" in started else self._process.stdout):
            if end is not None:
                end.close()

    def _write(self) -> None:
        # An engine that has gone, or is on its way out, is the reader's to tell.
        with suppress(OSError), self._commands as line:
            while (message := self._to_send.get()) is not None:
                data = message if isinstance(message, bytes) else self._pickled(message)
                if data is not None:
                    line.send_bytes(data)

    def _pickled(self, command: Command) -> bytes | None:
        """Spell a command here, where a large one holds up nobody; one that cannot be spelled fails, and no other."""
        try:
            return pickle.dumps(command)
        except (pickle.PicklingError, AttributeError, TypeError, RecursionError) as error:
            LOG.error("a command could not be sent to the engine", exc_info=error)
            if isinstance(command, (Generate, Embed, Count)):
                problem = Problem.of(
                    InternalError("the request could not be handed to the engine; the server's log says why")
                )
                with suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(self._listener.heard, (Failed(command.id, problem),))
            return None

    def _see_off(self, garbage: Exception | None) -> None:
        """It says nothing more: let a thread wait for its end."""
        how = None
        if garbage is not None:
            how = f"said what cannot be understood ({type(garbage).__name__})"
            self.kill()
        try:
            _begin("end", partial(self._await_end, how))
        except RuntimeError:
            # No thread is to be had: what is killed need not be waited for.
            self.kill()
            self._await_end(how)

    def _await_end(self, how: str | None) -> None:
        end = self._wait()
        # A loop that is closed has nobody left to tell.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._listener.ended, how or end)

    def _wait(self) -> str:
        try:
            code = self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._to_send.put(None)
        if self._process.stdin is not None:
            self._process.stdin.close()
        return f"ended with code {code}" if code >= 0 else f"was ended by {_signal_name(-code)}"

    def _log(self) -> None:
        output: IO[bytes] | None = self._process.stdout
        assert output is not None
        with output:
            for line in iter(lambda: output.readline(_LONGEST_LINE), b""):
                text = line.decode("utf-8", "replace").rstrip()
                if text:
                    LOG.warning("engine %d: %s", self._process.pid, text)


def _begin(name: str, work: Callable[[], None]) -> None:
    """Raises: RuntimeError where no thread can be started."""
    threading.Thread(target=work, name=f"engine-{name}", daemon=True).start()


def _spawn(target: str) -> tuple[subprocess.Popen[bytes], Connection, Connection]:
    """Start a process; give it and our ends of its lines."""
    orders, our_orders = os.pipe()
    try:
        our_events, events = os.pipe()
    except OSError:
        os.close(orders)
        os.close(our_orders)
        raise
    command = [sys.executable, "-c", _BOOT, json.dumps(sys.path), str(orders), str(events), target]
    with ExitStack() as undo:
        undo.callback(os.close, our_orders)
        undo.callback(os.close, our_events)
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(orders, events),
                start_new_session=True,
            )
        finally:
            os.close(orders)
            os.close(events)
        undo.pop_all()
    return process, Connection(our_orders, readable=False), Connection(our_events, writable=False)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
