"""Questions to the Hub about a model: which commit, which files. Retried where that helps; answers are checked values."""

from __future__ import annotations

import time
from typing import Any, Callable, TypeVar

from mlxk2.errors import DownloadFailed
from mlxk2.hub import retry
from mlxk2.hub.remote import RemoteFile, RepoState, checked
from mlxk2.hub.session import connect, find_token
from mlxk2.hub.translate import (
    Subject,
    foreign_errors,
    headers_of,
    is_transient,
    reason_of,
    revision_not_found,
    translate,
    translated,
)
from mlxk2.settings import HubSettings
from mlxk2.store.layout import is_commit, is_commit_prefix
from mlxk2.text import one_line

_MOST_FILES = 100_000
_MOST_COMMITS = 1000
_PATIENCE_S = 3.0

T = TypeVar("T")


class HuggingFaceHub:
    """The Hub that HF_ENDPOINT names, through its own client. `warnings` tells what went wrong and was tried again."""

    def __init__(self, settings: HubSettings) -> None:
        self.settings = settings
        self.token = find_token(settings)
        self.api = connect(settings, self.token)
        self.warnings: list[str] = []

    def subject(self, name: str, revision: str | None = None) -> Subject:
        """Name what is asked for, for the words of an error."""
        return Subject(name, revision, self.settings.endpoint, self.token is not None)

    def find(self, name: str, revision: str | None) -> RepoState:
        """Resolve a revision: a branch, a tag, a commit or the start of one; None is the main branch.

        Raises: ModelNotFound, RevisionNotFound, AccessDenied, InvalidName, DownloadFailed.
        """
        subject = self.subject(name, revision)
        with translated(subject):
            info = self._ask(lambda: self._info(name, revision), subject)
        if not isinstance(info.sha, str) or not is_commit(info.sha):
            raise DownloadFailed(
                f"the Hub names no commit for {one_line(name)}", hint="HF_ENDPOINT tells which Hub", retryable=False
            )
        return RepoState(name, info.sha, bool(info.private), bool(getattr(info, "gated", False)))

    def tree(self, state: RepoState) -> tuple[RemoteFile, ...]:
        """List all files of a commit. Raises: AccessDenied, DownloadFailed, ModelNotFound, RevisionNotFound."""
        subject = self.subject(state.name, state.commit)
        with translated(subject):
            entries = self._ask(lambda: self._entries(state), subject)
        return checked(tuple(map(_file, entries)))

    def _info(self, name: str, revision: str | None) -> Any:
        from huggingface_hub.errors import RevisionNotFoundError

        try:
            return self.api.model_info(name, revision=revision)
        except RevisionNotFoundError:
            commit = self._commit_of(name, revision or "")
            if commit is None:
                raise revision_not_found(self.subject(name, revision)) from None
            return self.api.model_info(name, revision=commit)

    def _commit_of(self, name: str, prefix: str) -> str | None:
        """Find the one commit that begins like this among the newest of the main branch."""
        if is_commit(prefix) or not is_commit_prefix(prefix):
            return None
        try:
            commits = [commit.commit_id for commit in self.api.list_repo_commits(name)[:_MOST_COMMITS]]
        except foreign_errors() as error:
            if is_transient(error):
                raise
            return None
        found = {commit for commit in commits if is_commit(commit) and commit.startswith(prefix.lower())}
        return found.pop() if len(found) == 1 else None

    def _entries(self, state: RepoState) -> list[Any]:
        found = []
        for number, entry in enumerate(self.api.list_repo_tree(state.name, recursive=True, revision=state.commit)):
            if hasattr(entry, "size"):
                found.append(entry)
            if number > _MOST_FILES:
                raise DownloadFailed(
                    f"{state.name} has more than {_MOST_FILES} files",
                    hint="that is more than a model has; hf download may take it",
                    retryable=False,
                )
        return found

    def _ask(self, question: Callable[[], T], subject: Subject) -> T:
        """Ask until there is an answer, or the same failure too often."""
        failures = 0
        while True:
            began = time.monotonic()
            try:
                return question()
            except foreign_errors() as error:
                # A Hub that hangs, or that the client has asked again itself, has used up its time.
                failures += 1 + int((time.monotonic() - began) / _PATIENCE_S)
                wish = retry.wish_s(headers_of(error))
                if not is_transient(error) or failures >= retry.MOST_FAILURES or (wish or 0) > retry.LONGEST_WISH_S:
                    raise translate(error, subject) from error
                self.warnings.append(f"the Hub answered late: {reason_of(error)}")
                time.sleep(retry.wait_s(failures) if wish is None else wish)


def _file(entry: Any) -> RemoteFile:
    """Read one file of the client's answer, trusting no type in it."""
    lfs = entry.lfs
    digest = entry.blob_id if lfs is None else lfs.sha256
    size = entry.size if lfs is None else lfs.size
    if not isinstance(entry.path, str) or not isinstance(digest, str) or not isinstance(size, int):
        raise DownloadFailed(
            "the Hub describes a file in a way that cannot be read", hint="HF_ENDPOINT tells which Hub", retryable=False
        )
    return RemoteFile(entry.path, size, digest)
