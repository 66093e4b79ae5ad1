"""One revision of a model on the Hub: which files it has, whether we may have them, and their bytes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import urllib3

from mlxk2.errors import DownloadFailed
from mlxk2.hub import retry
from mlxk2.hub.board import Job
from mlxk2.hub.client import HuggingFaceHub
from mlxk2.hub.download import CONNECTIONS, Download
from mlxk2.hub.fetch import TryAgain, read_range, refusal
from mlxk2.hub.remote import RemoteFile, RepoState
from mlxk2.hub.translate import reason_of, unreachable
from mlxk2.hub.transport import BadRedirect, Transport
from mlxk2.settings import HubSettings
from mlxk2.text import one_line

_TRIES = 4
_LONGEST_PAUSE_S = 10.0


class ModelSource:
    """A model on the Hub at one commit. `warnings` tells what went wrong and was got over."""

    def __init__(self, hub: HuggingFaceHub, state: RepoState, files: tuple[RemoteFile, ...]) -> None:
        self.state = state
        self.files = files
        self.warnings = hub.warnings
        self._by_path = {file.path: file for file in files}
        self._endpoint = hub.settings.endpoint
        self._subject = hub.subject(state.name, state.commit)
        self._transport = Transport(hub.settings, hub.token, CONNECTIONS)

    def check_access(self) -> None:
        """Find out whether the files themselves may be had: what a gated model is called is public, its files are not.

        Anything but a clear no is only a warning. Raises: AccessDenied, DownloadFailed.
        """
        if not self.files:
            return
        file = next((file for file in self.files if file.path == "config.json"), self.files[0])
        try:
            answer = self._transport.look(self._url(file.path))
        except BadRedirect as refused:
            raise DownloadFailed(f"the Hub cannot be asked for its files: {refused}", retryable=False) from refused
        except (urllib3.exceptions.HTTPError, OSError) as error:
            self.warnings.append(f"access could not be tested: {reason_of(error)}")
            return
        self._transport.done(answer)
        if answer.status in (401, 403):
            raise refusal(answer, file.path, self._subject)
        if answer.status >= 400:
            self.warnings.append(f"access could not be tested: HTTP {answer.status}")

    def read(self, path: str, start: int, length: int) -> bytes:
        """Read `length` bytes of a file from `start`; fewer where it ends before. Safe for several threads.

        Raises: DownloadFailed.
        """
        file = self._by_path[path]
        for failures in range(1, _TRIES + 1):
            try:
                return read_range(self._transport, self._url(path), file, start, length)
            except TryAgain as failure:
                reason, wish = failure.reason, failure.wish_s
            if failures < _TRIES:
                time.sleep(min(retry.wait_s(failures) if wish is None else wish, _LONGEST_PAUSE_S))
        raise unreachable(self._subject, f"{reason} ({one_line(path)})")

    def download(
        self, files: Sequence[RemoteFile], blob: Callable[[str], Path], *, present: int, total: int
    ) -> Download:
        """Prepare to fetch files to where `blob(digest)` says; `present` of `total` bytes are there already."""
        jobs = [Job(file, self._url(file.path), blob(file.digest)) for file in files]
        return Download(jobs, self._transport, self._subject, present=present, total=total)

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def _url(self, path: str) -> str:
        return f"{self._endpoint}/{self.state.name}/resolve/{self.state.commit}/{quote(path)}"


@contextmanager
def open_source(settings: HubSettings, name: str, revision: str | None) -> Iterator[ModelSource]:
    """Ask the Hub for a revision and its files.

    Raises: Offline, UsageError, ModelNotFound, RevisionNotFound, AccessDenied, InvalidName, DownloadFailed.
    """
    hub = HuggingFaceHub(settings)
    state = hub.find(name, revision)
    source = ModelSource(hub, state, hub.tree(state))
    try:
        yield source
    finally:
        source.close()
