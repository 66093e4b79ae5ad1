"""The first steps of an engine process: tie its life to that of its parent, then be the engine. Knows no model."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
from importlib import import_module
from multiprocessing.connection import Connection

from . import heap

_PR_SET_PDEATHSIG = 1


def be_engine(commands: int, events: int, target: str) -> None:
    """Read what to load from the descriptor `commands`, then call `target`, written "module:function"."""
    heap.keep_freed()
    _end_with_parent()
    # Who stops a server stops its parent, which ends the engine in good order.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    faulthandler.enable()
    line = Connection(commands, writable=False)
    try:
        spec = line.recv()
    except EOFError:
        return
    module, _, function = target.partition(":")
    getattr(import_module(module), function)(spec, line, Connection(events, readable=False))


def _end_with_parent() -> None:
    """Let nothing be left when the parent is killed; it holds the other end of standard input and writes nothing there."""
    threading.Thread(target=_end_with_input, name="lifeline", daemon=True).start()
    if sys.platform == "linux":
        # Where native code holds Python's lock, the thread above cannot act; the kernel can.
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _end_with_input() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGKILL)
