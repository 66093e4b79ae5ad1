"""What was asked of the server, in order, for tests to count. Knows nothing of sockets."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass
class Request:
    """One request. `status` is 0 and bytes are still growing until it is answered; `file` is the path in the repository."""

    method: str
    path: str
    query: str
    port: int
    kind: str = ""
    repo: str | None = None
    file: str | None = None
    carries_file: bool = False
    status: int = 0
    range: str | None = None
    range_if: str | None = None
    bytes_sent: int = 0
    bytes_received: int = 0
    authorized: bool = False
    user: str | None = None
    user_agent: str = ""


class RequestLog:
    """Every request since the start or the last reset."""

    def __init__(self) -> None:
        self._requests: list[Request] = []
        self._lock = threading.Lock()

    def add(self, request: Request) -> None:
        with self._lock:
            self._requests.append(request)

    def all(self) -> list[Request]:
        with self._lock:
            return list(self._requests)

    def reset(self) -> None:
        with self._lock:
            self._requests = []

    def count(self, method: str | None, path_contains: str | None, kind: str | None) -> int:
        return sum(
            1
            for request in self.all()
            if (method is None or request.method == method)
            and (path_contains is None or path_contains in request.path)
            and (kind is None or request.kind == kind)
        )

    def of(self, repo: str | None, path: str | None) -> list[Request]:
        """Those about `repo` and about files that match `path`."""
        return [
            request
            for request in self.all()
            if (repo is None or request.repo == repo) and (path is None or fnmatchcase(request.file or "", path))
        ]
