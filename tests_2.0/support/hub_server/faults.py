"""Faults to order: what goes wrong, with which requests, how often. Decides; the wire and the routes carry it out."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Callable

from .request_log import Request

DEFAULT_ON = {
    "drop": "file",
    "reset": "file",
    "hang": "file",
    "slow": "file",
    "flip": "file",
    "length": "file",
    "no_range": "file",
    "etag": "resolve",
    "expire": "storage",
    "status": "any",
    "invalid_rev": "preupload",
    "body": "any",
    "vanish": "any",
}
KINDS_OF_REQUEST = (
    "whoami", "info", "tree", "refs", "commits", "paths", "auth", "resolve", "create", "branch", "yaml", "preupload", "lfs",
    "verify", "commit", "storage", "upload", "file", "api", "any", "other",
)  # fmt: skip
_NOT_API = ("resolve", "storage", "upload")


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong; see the package's docstring for kinds and fields."""

    kind: str
    repo: str | None = None
    path: str | None = None
    on: str | None = None
    method: str | None = None
    times: int | None = None
    skip: int = 0
    after: int = 0
    status: int | None = None
    message: str = ""
    code: str | None = None
    retry_after: int | None = None
    headers_extra: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b"{}"
    content_type: str = "application/json"
    etag: str = "0" * 64
    rate: int = 100_000
    by: int = 1
    headers: bool = True

    def __post_init__(self) -> None:
        if self.kind not in DEFAULT_ON:
            raise ValueError(f"no fault {self.kind!r}; there are {', '.join(DEFAULT_ON)}")
        if self.on is not None and self.on not in KINDS_OF_REQUEST:
            raise ValueError(f"no requests {self.on!r}; there are {', '.join(KINDS_OF_REQUEST)}")

    def concerns(self, request: Request) -> bool:
        """Tell whether `request` is one of those that this fault is about."""
        subject = request.file if request.file is not None else request.path
        return (
            _covers(self.on or DEFAULT_ON[self.kind], request)
            and (self.method is None or self.method == request.method)
            and (self.repo is None or fnmatchcase(request.repo or "", self.repo))
            and (self.path is None or fnmatchcase(subject, self.path))
        )


def _covers(on: str, request: Request) -> bool:
    if on == "any":
        return True
    if on == "api":
        return request.kind not in _NOT_API
    if on == "file":
        return request.method == "GET" and request.carries_file
    return request.kind == on


@dataclass
class ActiveFault:
    """A fault in force. `hits`: how often it struck, `seen`: how often it could have."""

    fault: Fault
    hits: int = 0
    seen: int = 0

    def strikes(self) -> bool:
        """Count one more chance, and tell whether it is taken."""
        self.seen += 1
        if self.seen <= self.fault.skip or (self.fault.times is not None and self.hits >= self.fault.times):
            return False
        self.hits += 1
        return True


class Faults:
    """The faults in force."""

    def __init__(self) -> None:
        self._active: list[ActiveFault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> ActiveFault:
        active = ActiveFault(fault)
        with self._lock:
            self._active.append(active)
        return active

    def remove(self, active: ActiveFault) -> None:
        with self._lock:
            self._active = [other for other in self._active if other is not active]

    def clear(self) -> None:
        with self._lock:
            self._active = []

    def take(self, request: Request, *kinds: str, when: Callable[[Fault], bool] = lambda fault: True) -> Fault | None:
        """Give the first fault of `kinds` that strikes `request` now, of those for which `when` holds."""
        with self._lock:
            for active in self._active:
                fault = active.fault
                if fault.kind in kinds and fault.concerns(request) and when(fault) and active.strikes():
                    return fault
        return None
