"""What processes use, as `ps` tells it on Linux and macOS."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path


def family(pid: int) -> list[int]:
    """Return a process and its children."""
    lines = _ps("-A", "-o", "pid=,ppid=").splitlines()
    pairs = [tuple(map(int, line.split())) for line in lines]
    return [pid, *(child for child, parent in pairs if parent == pid)]


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the processor time that they have used."""
    return sum(map(_cpu_seconds, pids))


def resident_bytes(pid: int) -> int:
    """Return the memory that a process holds."""
    try:
        # What the kernel counts page by page; its quick figure, which ps tells, lags behind.
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return int(_ps("-o", "rss=", "-p", str(pid))) * 1024
    return next(int(line.split()[1]) for line in lines if line.startswith("Rss:")) * 1024


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return _seconds(_ps("-o", "time=", "-p", str(pid)))
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _seconds(clock: str) -> float:
    """Read a time as `ps` writes it: minutes:seconds, hours before them where there are any."""
    total = 0.0
    for part in clock.strip().replace("-", ":").split(":"):
        total = total * 60 + float(part)
    return total


def _ps(*words: str) -> str:
    return subprocess.run(["ps", *words], capture_output=True, text=True, check=True).stdout
