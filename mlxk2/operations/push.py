"""Publish a folder: check everything -> what would change? -> one atomic commit to a private repository, or none."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mlxk2.envelope import ABSENT
from mlxk2.errors import AuthError, Interrupted, MlxkError, PushFailed, UploadFailed
from mlxk2.events import Event, Started, Warned
from mlxk2.operations.push_plan import (
    Changes,
    LocalFolder,
    PushRequest,
    check_request,
    check_strictly,
    compare,
    difference,
    look_at_folder,
    to_delete,
)
from mlxk2.settings import Settings
from mlxk2.text import one_line
from mlxk2.units import format_size

if TYPE_CHECKING:
    from mlxk2.hub.publish import Publisher, RemoteBranch

DISCLAIMER = "push is experimental (alpha): look at the result on the Hub before you rely on it"
_MOST_LISTED = 20
_NO_CHANGES = "No files have been modified since last commit."
_HIDDEN = "[token]"


@dataclass(frozen=True)
class ChangeSummary:
    added: int
    modified: int
    deleted: int


@dataclass(frozen=True)
class PushResult:
    """The answer; fields that do not apply are left out of it."""

    repo_id: str
    branch: str
    commit_sha: str | None = None
    commit_url: str | None = None
    repo_url: str = ""
    uploaded_files_count: int = 0
    local_files_count: int = 0
    no_changes: bool = False
    created_repo: bool = False
    message: str = ""
    experimental: bool = True
    disclaimer: str = DISCLAIMER
    hf_logs: Any = ABSENT
    change_summary: Any = ABSENT
    workspace_health: Any = ABSENT
    dry_run: Any = ABSENT
    dry_run_summary: Any = ABSENT
    would_create_repo: Any = ABSENT
    would_create_branch: Any = ABSENT
    added_files: Any = ABSENT
    modified_files: Any = ABSENT
    deleted_files: Any = ABSENT


@dataclass(frozen=True)
class _Push:
    """One push: what was asked, the folder, and the part of the answer that is known from the start."""

    request: PushRequest
    folder: LocalFolder
    answer: PushResult

    @property
    def where(self) -> str:
        return f"{self.request.name}@{self.request.branch}"

    @property
    def advice(self) -> str:
        return f"; {self.folder.advice}" if self.folder.advice else ""


def push_folder(request: PushRequest, settings: Settings) -> Generator[Event, None, PushResult]:
    """Push a folder, or tell what that would do (`dry_run`), or only check it (`check_only`, no network).

    Raises: UsageError, Offline, AuthError, WorkspaceNotFound, WorkspaceUnhealthy, DependencyMissing, RepoNotFound,
    BranchCreateFailed, UploadFailed, PushFailed, Interrupted.
    """
    check_request(request)
    token = None if request.check_only else _token(settings)
    try:
        result = yield from _push(request, settings)
    except MlxkError as error:
        # A server may repeat what it was sent.
        error.message = _without(token, error.message)
        error.hint = None if error.hint is None else _without(token, error.hint)
        raise
    logs = result.hf_logs
    shown = logs if logs is ABSENT else tuple(_without(token, line) for line in logs)
    return replace(result, message=_without(token, result.message), hf_logs=shown)


def _token(settings: Settings) -> str:
    from mlxk2.hub.session import check_reachable, find_token, is_sendable

    check_reachable(settings.hub)
    token = find_token(settings.hub)
    if token is None:
        raise AuthError("push needs a token of the Hub", hint="set HF_TOKEN, or log in: hf auth login")
    if not is_sendable(token):
        raise AuthError("the token holds characters that no token has", hint="check HF_TOKEN: hf_ and letters")
    return token


def _without(token: str | None, text: str) -> str:
    return text.replace(token, _HIDDEN) if token else text


def _push(request: PushRequest, settings: Settings) -> Generator[Event, None, PushResult]:
    yield Started(request.name)
    folder = look_at_folder(request, settings)
    for anomaly in folder.health.anomalies:
        yield Warned(f"{anomaly.message} ({anomaly.code})")
    if folder.advice:
        yield Warned(folder.advice)
    if request.strict:
        check_strictly(request, folder.health)
    push = _Push(request, folder, _answer(request, folder, settings))
    if request.check_only:
        size = format_size(folder.health.total_bytes, " ")
        checked = f"check-only: {folder.health.problems or 'healthy'}; {folder.health.files_count} files, {size}; nothing was uploaded"
        return replace(push.answer, message=checked + push.advice)
    _check_pushable(push)
    from mlxk2.hub.publish import open_publisher

    hub = open_publisher(settings.hub)
    remote = _look(push, hub)
    for warning in dict.fromkeys(hub.warnings):
        yield Warned(warning)
    try:
        if request.dry_run:
            return (yield from _tell(push, remote))
        return (yield from _upload(push, hub, remote))
    except KeyboardInterrupt:
        hint = f"whether it arrived: {_dry_run(request)}"
        raise Interrupted("the push was interrupted", hint=hint) from None
    except OSError as error:
        raise PushFailed(f"a file of the folder cannot be read: {error.strerror or type(error).__name__}") from error


def _dry_run(request: PushRequest) -> str:
    """The command that tells how folder and branch differ."""
    branch = "" if request.branch == "main" else f" --branch {request.branch}"
    return f"mlxk2 push {request.shown_folder} {request.name}{branch} --private --dry-run"


def _answer(request: PushRequest, folder: LocalFolder, settings: Settings) -> PushResult:
    # With --check-only the address was not looked at; it may hold a password.
    endpoint = one_line(settings.hub.endpoint)
    scheme, slashes, rest = endpoint.partition("://")
    return PushResult(
        repo_id=request.name,
        branch=request.branch,
        repo_url=f"{scheme}{slashes}{rest.rpartition('@')[2]}/{request.name}",
        local_files_count=len(folder.upload.files),
        workspace_health=folder.health,
    )


def _check_pushable(push: _Push) -> None:
    """Refuse a folder of which a part cannot be read, or nothing is left: the Hub would lose what is there."""
    upload, shown = push.folder.upload, one_line(push.request.folder)
    if upload.unreadable:
        raise PushFailed(f"{shown}: {upload.unreadable[0]} cannot be read", hint="make it readable, or ignore it")
    if not upload.files:
        raise PushFailed(
            f"there is nothing to push in {shown}",
            hint=f"mlxk2 push {push.request.shown_folder} {push.request.name} --check-only",
        )


def _check_as_seen(push: _Push) -> None:
    """Refuse to send what has changed since it was looked at: it may be another file, or hold a secret now."""
    changed = [file.path for file in push.folder.upload.files if not file.is_as_seen]
    if changed:
        raise PushFailed(
            f"{one_line(changed[0])} changed while the push was under way; nothing was committed",
            hint="run the same command again when nothing writes to the folder",
        )


def _look(push: _Push, hub: Publisher) -> RemoteBranch:
    """See what is on the Hub, and refuse what must not or cannot be pushed to; nothing is sent before."""
    from mlxk2.hub.publish_errors import branch_missing, repo_not_found

    name, branch, create = push.request.name, push.request.branch, push.request.create
    remote = hub.look(name, branch)
    if not remote.repo_exists:
        if not create:
            raise repo_not_found(name)
        return remote
    if not remote.private:
        raise PushFailed(
            f"{name} is public, and --private is a promise: nothing was uploaded",
            hint=f"make it private at {push.answer.repo_url}/settings, or choose another name with --create",
        )
    if remote.head is None and not create:
        raise branch_missing(name, branch)
    hub.check_write(name)
    return remote


def _tell(push: _Push, remote: RemoteBranch) -> Generator[Event, None, PushResult]:
    """The answer of a dry run."""
    upload = push.folder.upload
    changes = yield from compare(upload.files, remote.files, upload)
    creates_branch = remote.head is None and (remote.repo_exists or push.request.branch != "main")
    steps = [] if remote.repo_exists else ["create the private repository"]
    steps += ["create the branch"] if creates_branch else []
    plan = f" would {' and '.join(steps)};" if steps else ""
    what = changes.words if changes.total else "no changes"
    return replace(
        push.answer,
        message=f"dry-run:{plan} {what}; nothing was uploaded{push.advice}",
        no_changes=not changes.total,
        dry_run=True,
        dry_run_summary=_summary(changes),
        would_create_repo=not remote.repo_exists,
        would_create_branch=creates_branch,
        added_files=changes.added[:_MOST_LISTED],
        modified_files=changes.modified[:_MOST_LISTED],
        deleted_files=changes.deleted[:_MOST_LISTED],
    )


def _upload(push: _Push, hub: Publisher, remote: RemoteBranch) -> Generator[Event, None, PushResult]:
    from mlxk2.hub.publish import LostReply, Upload

    request, upload = push.request, push.folder.upload
    ready, created = _made_ready(push, hub, remote)
    before = ready.files
    there = [file.path for file in before]
    job = Upload(
        name=request.name,
        branch=request.branch,
        parent=ready.head or "",
        message=request.message,
        additions={file.path: file.place for file in upload.files},
        deletions=to_delete([file.path for file in upload.files], there, upload),
    )
    logs: tuple[str, ...] = ()
    _check_as_seen(push)
    try:
        commit, logs = yield from hub.commit(job, create_branch=request.create)
    except UploadFailed as failed:
        failed.message += f"; the private repository {request.name} was created" if created else ""
        raise
    except LostReply as lost:
        landed = yield from _landed(push, hub, job.parent)
        if landed is None:
            raise lost.error from lost
        commit = landed
    answer = replace(push.answer, created_repo=created, hf_logs=logs or ABSENT)
    if commit == ready.head or any(line.startswith(_NO_CHANGES) for line in logs):
        line = next((line for line in logs if line.startswith(_NO_CHANGES)), _NO_CHANGES)
        return replace(answer, no_changes=True, message=line, hf_logs=logs or (line,))
    changes = yield from _changes(push, hub, ready, commit)
    return _committed(push, answer, commit, changes)


def _made_ready(push: _Push, hub: Publisher, remote: RemoteBranch) -> tuple[RemoteBranch, bool]:
    """Make repository and branch where they are missing, and look again; tells whether the repository is new.

    Raises: AuthError, PushFailed, BranchCreateFailed.
    """
    name, branch = push.request.name, push.request.branch
    created = False
    if not remote.repo_exists:
        created = hub.create_repo(name)
        remote = _look(push, hub)
    if remote.head is None:
        hub.create_branch(name, branch)
        remote = _look(push, hub)
    if remote.head is None:
        raise PushFailed(f"{name} has no branch '{branch}' though it was just made", hint="run the same command again")
    return remote, created


def _landed(push: _Push, hub: Publisher, parent: str) -> Generator[Event, None, str | None]:
    """Find out whether a commit arrived whose reply was lost: then the branch is what the folder is, and has moved."""
    try:
        head = hub.head(push.request.name, push.request.branch)
        if head is None or head == parent:
            return None
        files = hub.files(push.request.name, head)
    except MlxkError as error:
        again = f"whether it arrived: {_dry_run(push.request)}"
        message = f"the reply to the commit was lost; it is not known whether {push.where} has changed"
        raise UploadFailed(message, hint=again, retryable=True) from error
    upload = push.folder.upload
    changes = yield from compare(upload.files, files, upload)
    return None if changes.total else head


def _changes(push: _Push, hub: Publisher, before: RemoteBranch, commit: str) -> Generator[Event, None, Changes]:
    """Ask the Hub what the commit changed; where it does not answer any more, compare ourselves."""
    try:
        return difference(before.files, hub.files(push.request.name, commit))
    except MlxkError as error:
        yield Warned(f"the commit is made, but could not be looked at: {error.message}")
    upload = push.folder.upload
    return (yield from compare(upload.files, before.files, upload))


def _committed(push: _Push, answer: PushResult, commit: str, changes: Changes) -> PushResult:
    added, modified, deleted = map(len, changes)
    made = "repository created; " if answer.created_repo else ""
    return replace(
        answer,
        commit_sha=commit,
        commit_url=f"{answer.repo_url}/commit/{commit}",
        uploaded_files_count=changes.total,
        change_summary=_summary(changes),
        message=f"{made}{push.where} is now {commit[:7]}: {added} added, {modified} modified, {deleted} deleted{push.advice}",
    )


def _summary(changes: Changes) -> ChangeSummary:
    return ChangeSummary(len(changes.added), len(changes.modified), len(changes.deleted))
