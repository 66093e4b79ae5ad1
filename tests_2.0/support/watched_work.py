"""Work for the watchdog's tests: what a process of its own may do, and what it must not get away with."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Generator
from pathlib import Path

from mlxk2.errors import InsufficientMemory
from mlxk2.events import Delta, Event
from mlxk2.runner.watchdog import Pulse


def say(words: tuple[str, ...], pulse: Pulse) -> Generator[Event, None, str]:
    """Say all words and return the last one."""
    for word in words:
        yield Delta("answer", word)
    return words[-1]


def hang(patience_s: float, holding_the_lock: bool, note: Path, pulse: Pulse) -> Generator[Event, None, None]:
    """Say something, write down who one is, then wait for what never comes.

    The note is there once it is whole: whoever waits for the file may read it at once.
    """
    yield Delta("answer", "before")
    draft = note.with_suffix(".draft")
    draft.write_text(str(os.getpid()))
    draft.rename(note)
    pulse.enter("waiting", patience_s)
    yield Delta("answer", "now")
    # As MLX does while it connects: Python's lock may be kept, and no signal ends it.
    _wait_for_ever(ctypes.PyDLL(None) if holding_the_lock else ctypes.CDLL(None))


def beat_slowly(patience_s: float, pulse: Pulse) -> Generator[Event, None, str]:
    """Take twice as long as may be kept silent, with signs of life."""
    pulse.enter("counting", patience_s)
    end = time.monotonic() + 2 * patience_s
    while time.monotonic() < end:
        time.sleep(patience_s / 20)
        pulse.beat()
    yield Delta("answer", "done")
    return "done"


def wait_for_ctrl_c(pulse: Pulse) -> Generator[Event, None, str]:
    """Say something until one is interrupted."""
    try:
        while True:
            yield Delta("answer", ".")
            time.sleep(0.02)
    except KeyboardInterrupt:
        yield Delta("answer", "!")
        return "interrupted"


def refuse(pulse: Pulse) -> Generator[Event, None, None]:
    """Fail with an error that carries figures."""
    yield from ()
    raise InsufficientMemory("too big", hint="buy another", required_bytes=7)


def stumble(pulse: Pulse) -> Generator[Event, None, None]:
    """Fail as only a bug does."""
    yield from ()
    raise ZeroDivisionError("a bug")


def die(pulse: Pulse) -> Generator[Event, None, None]:
    """End without a word."""
    yield Delta("answer", "before")
    os.abort()


def shout(pulse: Pulse) -> Generator[Event, None, str]:
    """Print on both streams, natively."""
    yield from ()
    os.write(1, b"noise on 1\n")
    os.write(2, b"noise on 2\n")
    return "said"


def _wait_for_ever(library: ctypes.CDLL) -> None:
    """Lock a mutex twice."""
    mutex = ctypes.create_string_buffer(128)
    library.pthread_mutex_init(mutex, None)
    for _ in range(2):
        library.pthread_mutex_lock(mutex)
