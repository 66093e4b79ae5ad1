"""A real process on a pseudo-terminal of its own: type keys, wait for what it shows, take the terminal away."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

CTRL_C, CTRL_D, CTRL_Z, ENTER, ESCAPE, TAB, UP = "\x03", "\x04", "\x1a", "\r", "\x1b", "\t", "\x1b[A"
PASTE, PASTE_END = "\x1b[200~", "\x1b[201~"

_PATIENCE_S = 30.0
_REPEAT_S = 0.03
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\x1b[=>78]")

# Makes the pseudo-terminal the one that Ctrl-C and hang-ups come from, then runs the front door.
_CHILD = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from mlxk2.cli import main
sys.exit(main(sys.argv[1:]))
"""


class Terminal:
    """`mlxk2 ARGV` on a terminal. With `stderr` (a file) only the other two streams are the terminal's.

    Nothing here sleeps: `until` waits for a text, `wait` for the end.
    """

    def __init__(
        self,
        *argv: str,
        env: Mapping[str, str],
        stderr: Path | None = None,
        stdout: Path | None = None,
        columns: int = 120,
    ) -> None:
        self._master, self._slave = pty.openpty()
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
        self._before = termios.tcgetattr(self._slave)
        self._raw = b""
        self._seen = 0
        with ExitStack() as stack:
            out, err = (
                self._slave if path is None else stack.enter_context(open(path, "wb")) for path in (stdout, stderr)
            )
            self.process = subprocess.Popen(
                [sys.executable, "-c", _CHILD, *argv],
                stdin=self._slave, stdout=out, stderr=err, start_new_session=True,
                env={**os.environ, "TERM": "xterm-256color", **env},
            )  # fmt: skip

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.take_away()

    @property
    def text(self) -> str:
        """Everything that was shown, without what moves and colours it."""
        return _ESCAPES.sub("", self._raw.decode("utf-8", "replace")).replace("\r", "")

    @property
    def is_as_before(self) -> bool:
        """Whether the terminal's settings are those that it had at the beginning."""
        return bool(termios.tcgetattr(self._slave) == self._before)

    @property
    def echoes(self) -> bool:
        """Whether the terminal itself shows what is typed."""
        return bool(termios.tcgetattr(self._slave)[3] & termios.ECHO)

    def set_as_before(self) -> None:
        """Give the terminal the settings that it had at the beginning, as a shell does when a job is stopped."""
        termios.tcsetattr(self._slave, termios.TCSANOW, self._before)

    def type(self, *keys: str) -> None:
        """Type, as fast as keys can be."""
        os.write(self._master, "".join(keys).encode())

    def hold_down(self, key: str) -> None:
        """Press a key again and again until the process ends."""
        end = time.monotonic() + _PATIENCE_S
        while self.process.poll() is None:
            assert time.monotonic() < end, f"did not end; showed {self.text[-500:]!r}"
            self.type(key)
            repeat = time.monotonic() + _REPEAT_S
            while (left := repeat - time.monotonic()) > 0:
                self._read(left)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, as `kill` does."""
        os.kill(self.process.pid, number)

    def until(self, text: str) -> str:
        """Wait until `text` is shown after what was waited for before; return what came up to its end."""
        end = time.monotonic() + _PATIENCE_S
        while True:
            place = self.text.find(text, self._seen)
            if place >= 0:
                seen, self._seen = self._seen, place + len(text)
                return self.text[seen : self._seen]
            left = end - time.monotonic()
            assert left > 0 and self._read(left), f"waited in vain for {text!r} after {self.text[self._seen :]!r}"

    def wait(self) -> int:
        """Wait until the process has ended, reading what it still shows; return its exit code."""
        end = time.monotonic() + _PATIENCE_S
        while self.process.poll() is None:
            assert time.monotonic() < end, f"did not end; showed {self.text[-500:]!r}"
            self._read(0.02)
        while self._read(0):
            pass
        return self.process.returncode

    def take_away(self) -> None:
        """Close the terminal, as its window is closed."""
        for name in ("_master", "_slave"):
            descriptor: int = getattr(self, name)
            if descriptor >= 0:
                os.close(descriptor)
                setattr(self, name, -1)

    def wait_without_terminal(self) -> int:
        """Wait for the end of a process whose terminal was taken away."""
        return self.process.wait(timeout=_PATIENCE_S)

    def _read(self, timeout_s: float) -> bool:
        if self._master < 0 or not select.select([self._master], [], [], timeout_s)[0]:
            return False
        self._raw += os.read(self._master, 65536)
        return True


def environment(cache_env: Mapping[str, str], **more: Any) -> dict[str, str]:
    """Give a process the test's own world: its cache, its home, and where it keeps what was typed."""
    return {**cache_env, "XDG_STATE_HOME": str(Path(cache_env["HOME"]) / "state"), **more}
