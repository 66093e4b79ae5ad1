"""Work in a process of its own, which is given up when it says nothing for too long. Knows no model and no engine.

MLX holds Python's lock while it waits for other machines to connect: no thread could watch it, so a process does.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import suppress
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Callable, NamedTuple

from mlxk2.driving import drain
from mlxk2.errors import GenerationFailed, InternalError, Interrupted, MlxkError, PeerLost
from mlxk2.events import Event

# Units: seconds. Until the work begins; for work that was interrupted; between two signs of life.
_START_S, _GRACE_S, _BEAT_S = 60.0, 3.0, 0.2

# In the child: find the same modules, then do the work.
_BOOT = """import json, sys
sys.path[:] = json.loads(sys.argv[1])
from mlxk2.runner.watchdog import obey
obey(int(sys.argv[2]))
"""

_HINT = (
    "all ranks must run, and reach each other at the addresses they were given; MLXK2_PEER_TIMEOUT=N waits N seconds"
)


class Stage(NamedTuple):
    """What the work is doing, and how long it may say nothing meanwhile. Units: seconds."""

    doing: str
    patience_s: float


class _Done(NamedTuple):
    """The last message of work that succeeded."""

    result: Any


class _Failed(NamedTuple):
    """The last message of work that did not."""

    error: MlxkError


class Pulse:
    """The work's line to the process that watches it."""

    def __init__(self, line: Connection) -> None:
        self._line = line
        self._last = 0.0

    def enter(self, doing: str, patience_s: float) -> None:
        """Tell what comes now, and how long it may take between two signs of life."""
        self.send(Stage(doing, patience_s))

    def beat(self) -> None:
        """Tell that the work goes on; costs next to nothing."""
        if time.monotonic() - self._last > _BEAT_S:
            self.send(None)

    def send(self, message: Any) -> None:
        """Send an event, whole: no signal may cut it."""
        self._last = time.monotonic()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            self._line.send(message)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


Work = Callable[[Pulse], Generator[Event, None, Any]]


def watched(work: Work, *, quiet: bool = True) -> Generator[Event, None, Any]:
    """Yield the events of `work`, done in a process of its own, and return its result.

    `work` must be picklable. With `quiet` nothing that it, or a library, prints is seen. KeyboardInterrupt, striking
    here or thrown in, reaches the work, which may still end as it likes; where it cannot, it is raised again.

    Raises: PeerLost when the work says nothing for longer than its stage allows; what the work raises.
    """
    with _Worker(work, quiet) as worker:
        stage = Stage("starting", _START_S)
        pressed: KeyboardInterrupt | None = None
        while True:
            try:
                message = worker.receive(stage.patience_s)
                if isinstance(message, _Done):
                    return message.result
                if isinstance(message, _Failed):
                    raise _failure(message.error, pressed)
                if isinstance(message, Stage):
                    stage = stage if pressed else message
                elif message is not None:
                    yield message
            except (TimeoutError, EOFError) as silence:
                raise pressed or worker.verdict(silence, stage) from None
            except KeyboardInterrupt as interrupt:
                if pressed or interrupt.args:
                    # A second time, or by a signal that no key sends: at once.
                    raise
                pressed, stage = interrupt, Stage("ending", _GRACE_S)
                worker.interrupt()


def _failure(error: MlxkError, pressed: KeyboardInterrupt | None) -> BaseException:
    return pressed if pressed and isinstance(error, Interrupted) else error


class _Worker:
    """The process that works, as its watcher sees it. It is gone when the context ends."""

    def __init__(self, work: Work, quiet: bool) -> None:
        reading, writing = os.pipe()
        output = subprocess.DEVNULL if quiet else None
        command = [sys.executable, "-c", _BOOT, json.dumps(sys.path), str(writing)]
        # A session of its own: Ctrl-C on a terminal is answered here, and handed on.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, stderr=output, pass_fds=(writing,), start_new_session=True
        )
        os.close(writing)
        self._line = Connection(reading, writable=False)
        # A process that hangs before it reads would keep whoever writes; how long it may be silent is watched elsewhere.
        threading.Thread(target=self._send, args=(pickle.dumps(work),), daemon=True).start()

    def __enter__(self) -> _Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(subprocess.TimeoutExpired):
            # What is complete may put itself away; what failed has nothing left to do.
            self._process.wait(_GRACE_S if kind is None else 0)
        self._process.kill()
        self._process.wait()
        self._line.close()
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()

    def receive(self, patience_s: float) -> Any:
        """Return the next message. Raises: TimeoutError; EOFError when the process is gone."""
        if not self._line.poll(patience_s):
            raise TimeoutError
        signals = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        try:
            return self._line.recv()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def interrupt(self) -> None:
        """Let KeyboardInterrupt strike in the work."""
        self._process.terminate()

    def verdict(self, silence: Exception, stage: Stage) -> MlxkError:
        """Say what it means that nothing comes any more."""
        if isinstance(silence, TimeoutError):
            return PeerLost(f"no sign of the other ranks for {stage.patience_s:g} s while {stage.doing}", hint=_HINT)
        code = self._process.wait()
        how = f"signal {-code}" if code < 0 else f"code {code}"
        return GenerationFailed(f"the engine's process ended while {stage.doing} ({how})")

    def _send(self, work: bytes) -> None:
        assert self._process.stdin is not None
        with suppress(OSError, ValueError):  # it has ended, or has been ended
            self._process.stdin.write(len(work).to_bytes(8, "little") + work)
            self._process.stdin.flush()


def obey(line: int) -> None:
    """Be the process that works: read what to do from standard input, tell events and result on `line`."""
    signal.signal(signal.SIGTERM, _interrupt)
    pulse = Pulse(Connection(line, readable=False))
    work: Work = pickle.loads(_read(int.from_bytes(_read(8), "little")))
    threading.Thread(target=_end_with_watcher, daemon=True).start()
    with _Boundary(pulse):
        pulse.send(_Done(drain(work(pulse), pulse.send)))


class _Boundary:
    """Where a failure of the work leaves its process: told to the watcher, whatever it is."""

    def __init__(self, pulse: Pulse) -> None:
        self._pulse = pulse

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None:
            return False
        with suppress(BrokenPipeError):
            self._pulse.send(_Failed(_told(error)))
        return True


def _told(error: BaseException) -> MlxkError:
    if isinstance(error, MlxkError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Interrupted("interrupted")
    return InternalError(f"{type(error).__name__}: {error}"[:500], hint="this is a bug of MLX Knife")


def _read(count: int) -> bytes:
    """Read from standard input, without a buffer that a thread could hold while the process ends."""
    parts = b""
    while len(parts) < count:
        part = os.read(0, count - len(parts))
        if not part:
            raise EOFError
        parts += part
    return parts


def _end_with_watcher() -> None:
    """Wait until standard input ends, which only happens when the watcher is gone, then end without ado."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGKILL)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt
