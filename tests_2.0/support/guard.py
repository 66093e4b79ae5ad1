"""Keeps tests away from the user's own cache and from the network: an audit hook that cannot be got around in Python.

Knows nothing of pytest; conftest.py installs it and turns what it records into failures.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

# Where each audited event carries paths (positions among its arguments).
PATH_EVENTS: dict[str, tuple[int, ...]] = {
    "open": (0,),
    "os.listdir": (0,),
    "os.scandir": (0,),
    "os.mkdir": (0,),
    "os.remove": (0,),
    "os.rmdir": (0,),
    "os.rename": (0, 1),
    "os.link": (0, 1),
    "os.symlink": (1,),
    "os.truncate": (0,),
    "os.utime": (0,),
    "os.chmod": (0,),
    "shutil.rmtree": (0,),
    "shutil.copyfile": (0, 1),
    "shutil.move": (0, 1),
}
CONNECT_EVENTS = ("socket.connect", "socket.sendto")
RESOLVE_EVENTS = ("socket.getaddrinfo", "socket.gethostbyname")


class OutOfBounds(BaseException):
    """A test left its sandbox. No `Exception`, so that tolerant code under test cannot swallow it."""


def user_cache_roots(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Name every folder that may hold the user's own models, the way `hf` would find them."""
    home = environ.get("HOME") or os.path.expanduser("~")
    cache_home = environ.get("XDG_CACHE_HOME") or os.path.join(home, ".cache")
    roots = [os.path.join(home, ".cache", "huggingface"), os.path.join(cache_home, "huggingface")]
    roots += [environ[name] for name in ("HF_HOME", "HF_HUB_CACHE", "MLXK2_USER_HF_HOME") if environ.get(name)]
    expanded = [os.path.abspath(os.path.expanduser(root)) for root in roots]
    return tuple(dict.fromkeys(path for root in expanded for path in (root, os.path.realpath(root))))


def is_loopback(host: Any) -> bool:
    """Tell whether `host` (text, bytes or None) is this machine, without asking a resolver."""
    if isinstance(host, bytes):
        host = host.decode("ascii", "replace")
    if host is None or host in ("", "localhost", "::1", "::", "0.0.0.0"):
        return True
    return isinstance(host, str) and host.startswith("127.")


@dataclass
class Guard:
    """The hook's switch and memory. `forbidden`: folders whose content no test may touch."""

    forbidden: tuple[str, ...]
    active: bool = False
    violations: list[str] = field(default_factory=list)

    def install(self) -> None:
        """Hook into this interpreter, for good; `watching` switches it on."""
        sys.addaudithook(self._audit)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch until the block ends."""
        before, self.active = self.active, True
        try:
            yield
        finally:
            self.active = before

    def take_violations(self) -> list[str]:
        """Hand over what was recorded, and forget it."""
        taken, self.violations = self.violations, []
        return taken

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active:
            return
        problem = self._judge(event, arguments)
        if problem is not None:
            self.violations.append(problem)
            raise OutOfBounds(problem)

    def _judge(self, event: str, arguments: tuple[Any, ...]) -> str | None:
        if event in PATH_EVENTS:
            touched = (arguments[i] for i in PATH_EVENTS[event] if i < len(arguments))
            return next(
                (f"{event}: {path!r} is in the user's own cache" for path in touched if self._is_users(path)), None
            )
        if event in RESOLVE_EVENTS and not is_loopback(arguments[0]):
            return f"{event}: {arguments[0]!r} is not this machine"
        if event in CONNECT_EVENTS and _leaves_machine(arguments[1]):
            return f"{event}: {arguments[1]!r} is not this machine"
        return None

    def _is_users(self, path: Any) -> bool:
        if isinstance(path, int) or path is None:
            return False
        text = os.fsdecode(os.fspath(path))
        for candidate in (os.path.abspath(text), os.path.realpath(text)):
            if any(candidate == root or candidate.startswith(root + os.sep) for root in self.forbidden):
                return True
        return False


def _leaves_machine(address: Any) -> bool:
    """Judge a socket address: a pair or more of (host, port) for IP, text or bytes for a Unix socket."""
    return isinstance(address, tuple) and not is_loopback(address[0])
