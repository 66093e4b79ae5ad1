"""Waiting for what other processes do, with an end."""

from __future__ import annotations

import os
import time
from typing import Callable

_PATIENCE_S = 120.0


def wait_until(condition: Callable[[], bool], what: str = "it was so") -> None:
    """Return as soon as `condition` holds; fail when it does not within two minutes."""
    end = time.monotonic() + _PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"waited in vain until {what}"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    """Tell whether a process has ended; one that its parent has not looked at yet counts as gone."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        # It ended in between, or this system has no such folder.
        return os.path.exists("/proc/self/stat")
