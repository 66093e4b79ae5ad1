"""Several ranks of one run as processes of this machine, connected on loopback."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from .processes import gone

# No test waits longer for an answer, whatever is wrong.
_PATIENCE_S = 60.0


class Told(NamedTuple):
    """What one rank left."""

    code: int
    stdout: str
    stderr: str


class Rank:
    """One rank: a process of the program, and the one that works for it."""

    def __init__(self, argv: tuple[str, ...], env: Mapping[str, str], cwd: Path | None, stdin: str | None) -> None:
        self._stdin = stdin
        self._workers: list[int] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlxk2", *argv],
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )

    def has_worker(self) -> bool:
        """Whether there is a process that works already."""
        listed = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=False)
        self._workers = [int(line) for line in listed.stdout.split()]
        return bool(self._workers)

    def worker(self) -> int:
        """Return the id of the process that works."""
        assert self.has_worker()
        (found,) = self._workers
        return found

    def read_until(self, text: str) -> None:
        """Read stdout up to a line with `text`; what was read is gone."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if text in line:
                return
        raise AssertionError(f"{text!r} was never said: {self.end()}")

    def end(self) -> Told:
        """Wait for the end."""
        out, err = self.process.communicate(self._stdin, timeout=_PATIENCE_S)
        return Told(self.process.returncode, out, err)

    def clean_up(self) -> None:
        """Kill whatever still lives, and close the pipes."""
        for pid in self._workers:
            if not gone(pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.communicate()


def hostfile(folder: Path, size: int) -> Path:
    """Write the addresses of `size` ranks on free ports."""
    path = folder / "hosts.json"
    path.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in free_ports(size)]), encoding="utf-8")
    return path


def free_ports(count: int) -> list[int]:
    """Find ports that nobody uses at present, below those that systems give to whoever asks for any."""
    return [port for port in random.sample(range(20_000, 32_000), 100) if _is_free(port)][:count]


def _is_free(port: int) -> bool:
    with socket.socket() as one:
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


@contextmanager
def started(
    argv: tuple[str, ...],
    hosts: Path,
    *,
    ranks: tuple[int, ...] = (0, 1),
    env: Mapping[str, str] | None = None,
    places: Mapping[int, Path] | None = None,
    extra: Mapping[int, tuple[str, ...]] | None = None,
    stdin: str | None = None,
) -> Iterator[list[Rank]]:
    """Start some of the ranks; `places` are their working directories, `extra` arguments of one of them only.

    `stdin` is what rank 0 can read; everybody else's is empty.
    """
    running: list[Rank] = []
    try:
        for rank in ranks:
            own = {**os.environ, "MLX_HOSTFILE": str(hosts), "MLX_RANK": str(rank), **(env or {})}
            words = (*argv, *(extra or {}).get(rank, ()))
            running.append(Rank(words, own, (places or {}).get(rank), stdin if rank == 0 else None))
        yield running
    finally:
        for each in running:
            each.clean_up()
