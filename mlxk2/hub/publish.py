"""Writing to the Hub: what is there now, a repository, a branch, one atomic commit. Knows no folder's rules and no command."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from mlxk2.errors import DependencyMissing, MlxkError, ModelNotFound, UploadFailed
from mlxk2.hub.client import HuggingFaceHub
from mlxk2.hub.publish_errors import (
    branch_failed,
    create_failed,
    may_pass,
    not_allowed,
    not_uploaded,
    refused_revision,
    told_for_push,
)
from mlxk2.hub.remote import RemoteFile, RepoState
from mlxk2.hub.translate import foreign_errors, status_of
from mlxk2.settings import HubSettings
from mlxk2.store.layout import is_commit
from mlxk2.text import one_line

MAIN = "main"
_GIT_IGNORE = ".gitignore"
# The server leaves out what a .gitignore of the repository names; a text that names nothing stands in for it.
_IGNORES_NOTHING = "# nothing\n"
_LONGEST_LOG = 500


class RemoteBranch(NamedTuple):
    """A branch as it is now. `head` is None where there is no such branch; then `files` are those it would start with."""

    repo_exists: bool
    private: bool
    head: str | None
    files: tuple[RemoteFile, ...]


class Upload(NamedTuple):
    """One commit to make: (path in the repository, local path) pairs, paths to delete, and the head it builds upon."""

    name: str
    branch: str
    parent: str
    message: str
    additions: tuple[tuple[str, str], ...]
    deletions: tuple[str, ...]
    hosts_ignore_file: bool


class Committed(NamedTuple):
    """The head after the upload; it is the old one where nothing had changed. `logs` are the hub client's own lines."""

    commit: str
    logs: tuple[str, ...]


class LostReply(Exception):
    """The connection failed while the commit may have been under way: only the branch can tell. `error` is for the user."""

    def __init__(self, error: MlxkError) -> None:
        super().__init__(error.message)
        self.error = error


def open_publisher(settings: HubSettings) -> Publisher:
    """Connect. Raises: Offline, UsageError, DependencyMissing."""
    try:
        return Publisher(settings)
    except ImportError as error:
        raise DependencyMissing(
            f"push needs huggingface_hub, which cannot be imported: {one_line(str(error))}", hint="pip install mlxk2"
        ) from error


class Publisher(HuggingFaceHub):
    """The Hub of somebody who may write there."""

    def look(self, name: str, branch: str) -> RemoteBranch:
        """See what is there. Raises: AuthError, PushFailed."""
        with told_for_push(name):
            subject = self.subject(name)
            try:
                info = self._ask(lambda: self.api.model_info(name), subject)
            except ModelNotFound:
                return RemoteBranch(False, True, None, ())
            heads = self._heads(name)
            head = heads.get(branch)
            start = head or heads.get(MAIN)
            files = self.tree(RepoState(name, start, bool(info.private), False)) if start else ()
            return RemoteBranch(True, bool(info.private), head, files)

    def head(self, name: str, branch: str) -> str | None:
        """Return the commit of a branch now, or None. Raises: AuthError, PushFailed, RepoNotFound."""
        with told_for_push(name):
            return self._heads(name).get(branch)

    def files(self, name: str, commit: str) -> tuple[RemoteFile, ...]:
        """List the files of a commit. Raises: AuthError, PushFailed, RepoNotFound."""
        with told_for_push(name):
            return self.tree(RepoState(name, commit, True, False))

    def check_write(self, name: str) -> None:
        """Find out whether this token may write, before anything is sent. Raises: AuthError for a clear no."""
        from huggingface_hub.utils import hf_raise_for_status

        try:
            hf_raise_for_status(self._get(f"/api/models/{name}/auth-check/write"))
        except foreign_errors() as error:
            # Anything else, such as a Hub without this question, is left to the upload itself.
            if status_of(error) in (401, 403):
                raise not_allowed(name, error) from error

    def create_repo(self, name: str) -> bool:
        """Make a private repository; False where somebody else has made it meanwhile. Raises: AuthError, PushFailed."""
        try:
            self.api.create_repo(name, private=True)
        except foreign_errors() as error:
            if status_of(error) == 409:
                return False
            raise create_failed(name, error) from error
        return True

    def create_branch(self, name: str, branch: str) -> None:
        """Make a branch that starts at the main one; one that is there is fine. Raises: BranchCreateFailed."""
        try:
            self.api.create_branch(name, branch=branch, exist_ok=True)
        except foreign_errors() as error:
            raise branch_failed(name, branch, error) from error

    def commit(self, upload: Upload, *, create_branch: bool) -> Committed:
        """Upload everything and make one commit of it, or none where nothing has changed.

        With `create_branch` an upload that is refused for its revision is tried once more, after making the branch.
        Raises: UploadFailed, LostReply, AuthError, BranchCreateFailed.
        """
        with self._xet(upload), _client_logs() as logs:
            try:
                commit = self._commit(upload)
            except foreign_errors() as error:
                if not refused_revision(error) or not create_branch:
                    raise self._failure(upload, error) from error
                commit = self._second_try(upload)
        return Committed(commit, tuple(logs))

    def _second_try(self, upload: Upload) -> str:
        self.create_branch(upload.name, upload.branch)
        try:
            return self._commit(upload)
        except foreign_errors() as error:
            raise self._failure(upload, error) from error

    def _failure(self, upload: Upload, error: BaseException) -> Exception:
        told = not_uploaded(upload.name, upload.branch, error)
        return LostReply(told) if may_pass(error) else told

    def _commit(self, upload: Upload) -> str:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        additions = [CommitOperationAdd(path_in_repo=path, path_or_fileobj=place) for path, place in upload.additions]
        deletions = [CommitOperationDelete(path_in_repo=path, is_folder=False) for path in upload.deletions]
        where = {"repo_id": upload.name, "revision": upload.branch}
        if upload.hosts_ignore_file or any(path == _GIT_IGNORE for path, _ in upload.additions):
            self.api.preupload_lfs_files(
                additions=additions, gitignore_content=_IGNORES_NOTHING, free_memory=False, **where
            )
        info = self.api.create_commit(
            operations=[*additions, *deletions],
            commit_message=upload.message,
            parent_commit=upload.parent,
            **where,
        )
        if not isinstance(info.oid, str) or not is_commit(info.oid):
            raise UploadFailed("the Hub names no commit; its answer cannot be understood")
        return info.oid

    def _heads(self, name: str) -> dict[str, str]:
        refs = self._ask(lambda: self.api.list_repo_refs(name), self.subject(name))
        heads = {branch.name: branch.target_commit for branch in refs.branches}
        return {branch: commit for branch, commit in heads.items() if isinstance(commit, str) and is_commit(commit)}

    def _get(self, path: str) -> Any:
        from huggingface_hub.utils import build_hf_headers, get_session

        headers = build_hf_headers(token=self.token or False, library_name="mlxk2")
        return get_session().get(f"{self.settings.endpoint}{path}", headers=headers)

    @contextmanager
    def _xet(self, upload: Upload) -> Iterator[None]:
        """Let the client upload by Xet where the Hub has it. The client looks this switch up at each call."""
        from huggingface_hub import constants

        before = constants.HF_HUB_DISABLE_XET
        constants.HF_HUB_DISABLE_XET = before or not self._has_xet(upload)
        try:
            yield
        finally:
            constants.HF_HUB_DISABLE_XET = before

    def _has_xet(self, upload: Upload) -> bool:
        """Ask for leave to upload by Xet, which a Hub without it does not know; with it on, nothing could be uploaded."""
        if not self.settings.use_xet or not self.settings.endpoint.startswith("https://"):
            return False
        from urllib.parse import quote

        try:
            answer = self._get(f"/api/models/{upload.name}/xet-write-token/{quote(upload.branch, safe='')}")
        except foreign_errors():
            return False
        return bool(answer.status_code == 200)


class _Collector(logging.Handler):
    """Keeps the lines of a logger."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(one_line(record.getMessage())[:_LONGEST_LOG])


@contextmanager
def _client_logs() -> Iterator[Sequence[str]]:
    """Collect what the hub client logs, even where logging is switched off for stderr's sake; say its warnings to nobody."""
    log = logging.getLogger("huggingface_hub")
    collector, level, disabled = _Collector(), log.level, logging.root.manager.disable
    log.addHandler(collector)
    log.setLevel(logging.WARNING)
    logging.disable(logging.NOTSET)
    try:
        with warnings.catch_warnings():
            # The Hub's remarks about model cards, meant for its own command line.
            warnings.simplefilter("ignore", UserWarning)
            yield collector.lines
    finally:
        logging.disable(disabled)
        log.setLevel(level)
        log.removeHandler(collector)
