"""Writing to the Hub: what is there now, a repository, a branch, one atomic commit. Knows no folder's rules and no command."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from mlxk2.errors import DependencyMissing, MlxkError, ModelNotFound
from mlxk2.events import Progress
from mlxk2.hub.client import HuggingFaceHub
from mlxk2.hub.publish_errors import (
    branch_failed,
    card_refused,
    create_failed,
    may_pass,
    not_allowed,
    not_uploaded,
    refused_revision,
    told_for_push,
)
from mlxk2.hub.remote import RemoteFile, RepoState
from mlxk2.hub.translate import foreign_errors, status_of
from mlxk2.hub.upload import Watch
from mlxk2.settings import HubSettings
from mlxk2.store.layout import is_commit
from mlxk2.text import one_line

MAIN = "main"
# The server leaves out what a .gitignore of the repository names; a text that names nothing stands in for it.
_IGNORES_NOTHING = "# nothing\n"
_LONGEST_LOG = 500
_QUERY = re.compile(r"\?[^\s'\"]+")


class RemoteBranch(NamedTuple):
    """A branch as it is now. `head` is None where there is no such branch; then `files` are those it would start with."""

    repo_exists: bool
    private: bool
    head: str | None
    files: tuple[RemoteFile, ...]


class Upload(NamedTuple):
    """One commit to make: local path by path in the repository, paths to delete, and the head it builds upon."""

    name: str
    branch: str
    parent: str
    message: str
    additions: Mapping[str, str]
    deletions: tuple[str, ...]


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

    def commit(self, upload: Upload, *, create_branch: bool) -> Generator[Progress, None, Committed]:
        """Upload everything and make one commit of it, or none where nothing has changed. Units of Progress: bytes.

        With `create_branch` an upload that is refused for its revision is tried once more, after making the branch.
        Raises: UploadFailed, LostReply, AuthError, BranchCreateFailed.
        """
        with self._client_set(upload) as has_xet, _client_logs() as logs:
            try:
                commit = yield from self._commit(upload, has_xet=has_xet)
            except foreign_errors() as error:
                if not refused_revision(error) or not create_branch:
                    raise not_uploaded(upload.name, upload.branch, error) from error
                commit = yield from self._second_try(upload, has_xet=has_xet)
        return Committed(commit, tuple(logs))

    def _second_try(self, upload: Upload, *, has_xet: bool) -> Generator[Progress, None, str]:
        self.create_branch(upload.name, upload.branch)
        try:
            return (yield from self._commit(upload, has_xet=has_xet))
        except foreign_errors() as error:
            raise not_uploaded(upload.name, upload.branch, error) from error

    def _commit(self, upload: Upload, *, has_xet: bool) -> Generator[Progress, None, str]:
        """Large files first, in threads that can be stopped; then the commit itself, which Ctrl-C reaches at once."""
        from huggingface_hub import CommitOperationDelete

        self._check_card(upload)
        watch = Watch({path: os.path.getsize(place) for path, place in upload.additions.items()})
        additions = watch.additions(upload.additions)
        deletions = [CommitOperationDelete(path_in_repo=path, is_folder=False) for path in upload.deletions]

        def send_large() -> None:
            self.api.preupload_lfs_files(
                upload.name,
                additions,
                revision=upload.branch,
                free_memory=False,
                gitignore_content=_IGNORES_NOTHING,
            )

        if has_xet:
            send_large()  # hf_xet heeds Ctrl-C where it is called from the main thread, and reads files on its own
        else:
            yield from watch.run(send_large)
        watch.stop.clear()
        return self._create_commit(upload, [*additions, *deletions])

    def _create_commit(self, upload: Upload, operations: list[Any]) -> str:
        """Make the commit, or none where nothing has changed. Raises: LostReply."""
        try:
            info = self.api.create_commit(
                upload.name,
                operations,
                commit_message=upload.message,
                revision=upload.branch,
                parent_commit=upload.parent,
            )
            if not isinstance(info.oid, str) or not is_commit(info.oid):
                raise ValueError("the Hub's answer names no commit")
        except foreign_errors() as error:
            # No status: the connection failed, or the answer to a commit that was made could not be read.
            if status_of(error) is None or may_pass(error):
                raise LostReply(not_uploaded(upload.name, upload.branch, error)) from error
            raise
        return str(info.oid)

    def _check_card(self, upload: Upload) -> None:
        """Let the Hub look at README.md before gigabytes are sent; the client asks so late. Raises: UploadFailed."""
        from huggingface_hub.utils import build_hf_headers, get_session

        place = upload.additions.get("README.md")
        if place is None:
            return
        with open(place, encoding="utf-8") as file:
            question = {"content": file.read(), "repoType": "model"}
        headers = build_hf_headers(token=self.token or False, library_name="mlxk2")
        answer = get_session().post(f"{self.settings.endpoint}/api/validate-yaml", json=question, headers=headers)
        if answer.status_code == 400:
            raise card_refused(answer.json())

    def _heads(self, name: str) -> dict[str, str]:
        refs = self._ask(lambda: self.api.list_repo_refs(name), self.subject(name))
        heads = {branch.name: branch.target_commit for branch in refs.branches}
        return {branch: commit for branch, commit in heads.items() if isinstance(commit, str) and is_commit(commit)}

    def _get(self, path: str) -> Any:
        from huggingface_hub.utils import build_hf_headers, get_session

        headers = build_hf_headers(token=self.token or False, library_name="mlxk2")
        return get_session().get(f"{self.settings.endpoint}{path}", headers=headers)

    @contextmanager
    def _client_set(self, upload: Upload) -> Iterator[bool]:
        """Let the client upload by Xet where the Hub has it, and know our address; it looks both up at each call.

        Gives whether Xet is on.
        """
        from huggingface_hub import constants

        before = constants.HF_HUB_DISABLE_XET, constants.ENDPOINT
        constants.HF_HUB_DISABLE_XET = constants.HF_HUB_DISABLE_XET or not self._has_xet(upload)
        # The client of 0.x reads a commit's address against this one, whatever HfApi was told.
        constants.ENDPOINT = self.settings.endpoint
        try:
            yield not constants.HF_HUB_DISABLE_XET
        finally:
            constants.HF_HUB_DISABLE_XET, constants.ENDPOINT = before

    def _has_xet(self, upload: Upload) -> bool:
        """Ask for leave to upload by Xet, which a Hub without it does not know; with it on, nothing could be uploaded."""
        from importlib.util import find_spec
        from urllib.parse import quote

        if (
            not self.settings.use_xet
            or not self.settings.endpoint.startswith("https://")
            or find_spec("hf_xet") is None
        ):
            return False

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
        line = one_line(record.getMessage())
        # What follows the question mark of an address may be a signature.
        self.lines.append(_QUERY.sub("?…", line)[:_LONGEST_LOG])


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
            # Remarks about model cards for its own command line, and how it uses its own HTTP library.
            warnings.simplefilter("ignore", UserWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield collector.lines
    finally:
        logging.disable(disabled)
        log.setLevel(level)
        log.removeHandler(collector)
