"""Everything of a process that a test wants to own: streams, environment, clock, width of the terminal."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Callable, NamedTuple, TextIO, cast

from mlxk2.errors import OutputFailed


class Ending:
    """Which signal ends the process: SIGTERM, SIGHUP; None for Ctrl-C, and while nothing does."""

    def __init__(self) -> None:
        self.signal_name: str | None = None

    @property
    def words(self) -> str:
        """Say who ended what was going on."""
        return "interrupted" if self.signal_name is None else f"ended by {self.signal_name}"


class Io(NamedTuple):
    """The outside world of one command. `owns_process`: whether file descriptors and signals are ours to change."""

    stdin: TextIO
    stdout: TextIO
    stderr: TextIO
    environ: Mapping[str, str]
    clock: Callable[[], float] = time.time
    width: int | None = None
    owns_process: bool = False
    ending: Ending = Ending()


def is_terminal(stream: TextIO) -> bool:
    """Tell whether a person is at the other end; a closed or foreign stream is no terminal."""
    try:
        return stream.isatty()
    except ValueError:
        return False


@contextmanager
def process_io() -> Iterator[Io]:
    """Give the process's own streams, with stdout out of reach of libraries.

    Descriptor 1 leads to stderr meanwhile, so that whatever a library prints, natively too, is no data.
    """
    for descriptor in (0, 1, 2):
        _ensure_open(descriptor)
    keyboard, out, err = _copied(0, "r"), _copied(1, "w"), _copied(2, "w")
    try:
        os.dup2(err.fileno(), 1)
        width = _terminal_width(out)
        yield Io(keyboard, out, err, os.environ, width=width, owns_process=True, ending=Ending())
    finally:
        for stream in (out, err, keyboard):
            _close(stream)


def write(stream: TextIO, text: str) -> None:
    """Write data, at once. Raises: OutputFailed; BrokenPipeError where the reader has gone."""
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputFailed(f"the answer could not be written: {error.strerror}") from error


def silence_libraries(io: Io) -> None:
    """Send what libraries print or log to nowhere: JSON mode without --verbose."""
    if not io.owns_process:
        return
    import logging
    import warnings

    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")


def _ensure_open(descriptor: int) -> None:
    """Put the null device where a standard stream is missing; else the next file that is opened would take its place.

    Standard output gets it for reading only: an answer that nobody can receive is an error, not a success.
    """
    try:
        os.fstat(descriptor)
    except OSError:
        null = os.open(os.devnull, os.O_RDONLY if descriptor == 1 else os.O_RDWR)
        if null != descriptor:
            os.dup2(null, descriptor)
            os.close(null)


def _copied(descriptor: int, mode: str) -> TextIO:
    """Open a private copy of a standard stream."""
    errors = "strict" if mode == "r" else "replace"
    newline = None if mode == "r" else "\n"
    return cast("TextIO", open(os.dup(descriptor), mode, encoding="utf-8", errors=errors, newline=newline))


def width_of(stream: TextIO, io: Io) -> int | None:
    """Tell how wide a terminal is at the moment, which may change; None where nobody knows."""
    return _terminal_width(stream) or io.width


def _terminal_width(stream: TextIO) -> int | None:
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError):
        return None


def _close(stream: TextIO) -> None:
    try:
        stream.close()
    except OSError:
        # It failed before, and was told; what is still buffered has nowhere to go.
        pass
