"""The server: two ports, repositories, tokens, faults and counters in one object. Knows no protocol details."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from .access import Access, User
from .dispatch import Dispatch
from .faults import ActiveFault, Fault, Faults
from .listener import Listener
from .repo import Gated, Repo
from .request_log import Request, RequestLog
from .storage import Storage
from .store import ObjectStore


class HubServer:
    """A Hub on loopback; see the package's docstring. Serves while it is entered."""

    def __init__(self, store: Path, *, host: str = "127.0.0.1", port: int = 0, verbose: bool = False) -> None:
        self.folder = Path(store)
        self.objects = ObjectStore(self.folder / "objects")
        self.access = Access()
        self.faults = Faults()
        self.log = RequestLog()
        self.storage = Storage(self)
        self.page_size = 1000
        self.resolve_cache = False
        self.empty_commits = 0
        self.endpoint = ""
        self.storage_endpoint = ""
        self.verbose = verbose
        self.storage_rate: int | None = None
        self._host, self._port = host, port
        self._lock = threading.RLock()
        self._repos = self._load()
        self._listeners: list[Listener] = []

    def __enter__(self) -> HubServer:
        self.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()

    def start(self) -> None:
        """Listen on both ports."""
        dispatch = Dispatch(self)
        storage = Listener(self._host, 0, dispatch.serve_storage)
        self._listeners.append(storage)
        try:
            api = Listener(self._host, self._port, dispatch.serve_api)
        except OSError:
            self.stop()
            raise
        self._listeners.append(api)
        self._port = api.port  # a second start finds the same place
        self.storage_endpoint = f"http://{self._host}:{storage.port}"
        self.endpoint = f"http://{self._host}:{api.port}"

    def stop(self) -> None:
        """End every connection and wait for every thread; `start` may follow."""
        while self._listeners:
            self._listeners.pop().stop()

    # Repositories and rights

    def create_repo(self, repo_id: str, *, private: bool = False, gated: Gated = False) -> Repo:
        """Make a repository. Raises: ValueError if it is there."""
        with self._lock:
            if repo_id in self._repos:
                raise ValueError(f"{repo_id} is there")
            folder = self.folder / "repos" / repo_id.replace("/", "--")
            repo = self._repos[repo_id] = Repo.create(folder, self.objects, repo_id, private, gated)
        return repo

    def repo(self, repo_id: str) -> Repo:
        """Give a repository. Raises: KeyError."""
        return self._repos[repo_id]

    def find(self, repo_id: str) -> Repo | None:
        return self._repos.get(repo_id)

    def repos(self) -> list[str]:
        return sorted(self._repos)

    def add_token(
        self,
        token: str,
        *,
        user: str,
        write: bool = False,
        orgs: tuple[str, ...] = (),
        gated_access: tuple[str, ...] = (),
    ) -> None:
        """Make a token valid. Its user owns the namespaces `user` and `orgs`."""
        self.access.add(token, User(user, write, tuple(orgs), tuple(gated_access)))

    # Faults and counters

    def add_fault(self, fault: Fault) -> ActiveFault:
        return self.faults.add(fault)

    def remove_fault(self, active: ActiveFault) -> None:
        self.faults.remove(active)

    def clear_faults(self) -> None:
        self.faults.clear()

    def limit_rate(self, bytes_per_second: int | None) -> None:
        """Hold every connection of the storage to a rate, both ways; None is as fast as it goes."""
        self.storage_rate = bytes_per_second

    @property
    def requests(self) -> list[Request]:
        return self.log.all()

    def reset_counters(self) -> None:
        self.log.reset()
        self.empty_commits = 0

    def count(self, method: str | None = None, path_contains: str | None = None, *, kind: str | None = None) -> int:
        """Count requests."""
        return self.log.count(method, path_contains, kind)

    def bytes_sent(self, repo: str | None = None, path: str | None = None) -> int:
        """Sum up what was sent of files; `path` is an fnmatch pattern."""
        return sum(request.bytes_sent for request in self.log.of(repo, path))

    def bytes_received(self, repo: str | None = None) -> int:
        """Sum up the bodies of uploads."""
        return sum(request.bytes_received for request in self.log.of(repo, None) if request.kind == "upload")

    def _load(self) -> dict[str, Repo]:
        found = (Repo(path.parent, self.objects) for path in self.folder.glob("repos/*/repo.json"))
        return {repo.id: repo for repo in found}
