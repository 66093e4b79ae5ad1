"""What a push is asked for, whether it can be, and what it would change on the Hub. Reads the folder; changes nothing."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from shlex import quote
from typing import TYPE_CHECKING, NamedTuple

from mlxk2.errors import UsageError, WorkspaceNotFound, WorkspaceUnhealthy
from mlxk2.events import Progress
from mlxk2.inspection.upload_set import LocalFile, UploadSet, scan_folder
from mlxk2.inspection.workspace_check import WorkspaceHealth, card_advice, check_workspace
from mlxk2.settings import Settings
from mlxk2.store.layout import hub_name_problem, is_commit, revision_problem
from mlxk2.store.model_ref import ModelRef
from mlxk2.store.workspace import children, from_path, is_path
from mlxk2.text import one_line

if TYPE_CHECKING:
    from mlxk2.hub.remote import RemoteFile

# Source: git-check-ref-format.
_NOT_IN_BRANCH = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|\.lock(?:/|$)|(?:^|/)\.|\.$|/$|^-")
_LONGEST_BRANCH = 200
_ATTRIBUTES = ".gitattributes"
# The hub client refuses to touch anything below these.
_FORBIDDEN_FOLDERS = frozenset({".git", ".cache"})


@dataclass(frozen=True)
class PushRequest:
    """What the user asked for; `folder` and `name` are as they were typed."""

    folder: str
    name: str
    branch: str = "main"
    message: str = "mlx-knife push"
    private: bool = False
    create: bool = False
    check_only: bool = False
    dry_run: bool = False
    strict: bool = False

    @property
    def shown_folder(self) -> str:
        """The folder as it is typed in a shell."""
        return quote(one_line(self.folder))


class LocalFolder(NamedTuple):
    """The folder, looked at. `advice` says what its README lacks."""

    upload: UploadSet
    health: WorkspaceHealth
    advice: str | None


class Changes(NamedTuple):
    """Paths, sorted."""

    added: tuple[str, ...]
    modified: tuple[str, ...]
    deleted: tuple[str, ...]

    @property
    def total(self) -> int:
        return len(self.added) + len(self.modified) + len(self.deleted)

    @property
    def words(self) -> str:
        return f"+{len(self.added)} ~{len(self.modified)} -{len(self.deleted)}"


def check_request(request: PushRequest) -> None:
    """Refuse what cannot be meant, before anything is looked at. Raises: UsageError."""
    if not request.folder:
        raise UsageError("the folder has no name", hint="mlxk2 push ./folder org/model --private")
    problem = _name_problem(request.name)
    if problem is not None:
        raise UsageError(f"'{one_line(request.name[:120])}' is no repository: {problem}", hint="write org/model")
    problem = _branch_problem(request.branch)
    if problem is not None:
        raise UsageError(
            f"'{one_line(request.branch[:120])}' is no branch: {problem}", hint="for example: --branch main"
        )
    if not request.message.strip():
        raise UsageError("the commit needs a message", hint='for example: --commit "new weights"')
    if not request.private and not request.check_only:
        command = f"mlxk2 push {request.shown_folder} {request.name} --private"
        raise UsageError("push needs --private: it publishes to private repositories only", hint=command)


def look_at_folder(request: PushRequest, settings: Settings) -> LocalFolder:
    """Find the folder and look at all of it. Raises: WorkspaceNotFound, PushFailed."""
    ref = _find(request.folder, settings)
    upload = scan_folder(str(ref.path))
    return LocalFolder(upload, check_workspace(ref, upload), card_advice(ref, upload))


def check_strictly(request: PushRequest, health: WorkspaceHealth) -> None:
    """Refuse a folder with any error or warning. Raises: WorkspaceUnhealthy."""
    if health.anomalies:
        raise WorkspaceUnhealthy(
            f"{one_line(request.folder)} is not fit to be pushed: {health.problems}; nothing was uploaded",
            hint="mend what is named, or push without --strict",
            detail=health,
        )


def compare(
    files: Iterable[LocalFile], remote: Iterable[RemoteFile], upload: UploadSet
) -> Generator[Progress, None, Changes]:
    """Compare with what is on the Hub by size, then by hash. Units of Progress: bytes. Raises: OSError."""
    there = {file.path: file for file in remote}
    local = {file.path: file for file in files}
    modified = [path for path in local if path in there and local[path].size_bytes != there[path].size_bytes]
    doubtful = [path for path in local if path in there and local[path].size_bytes == there[path].size_bytes]
    modified += yield from _differing([(local[path], there[path]) for path in doubtful])
    return Changes(
        added=tuple(sorted(path for path in local if path not in there)),
        modified=tuple(sorted(modified)),
        deleted=to_delete(local, there, upload),
    )


def to_delete(local: Iterable[str], remote: Iterable[str], upload: UploadSet) -> tuple[str, ...]:
    """List what is on the Hub and not in the folder, but for what must stay."""
    here = set(local)
    return tuple(sorted(path for path in remote if path not in here and not _stays(path, upload)))


def difference(before: Iterable[RemoteFile], after: Iterable[RemoteFile]) -> Changes:
    """Tell what one commit changed."""
    old = {file.path: file.digest for file in before}
    new = {file.path: file.digest for file in after}
    return Changes(
        added=tuple(sorted(new.keys() - old.keys())),
        modified=tuple(sorted(path for path in new.keys() & old.keys() if new[path] != old[path])),
        deleted=tuple(sorted(old.keys() - new.keys())),
    )


def _differing(pairs: list[tuple[LocalFile, RemoteFile]]) -> Generator[Progress, None, list[str]]:
    from pathlib import Path

    from mlxk2.hub.digest import is_intact

    total, before = sum(local.size_bytes for local, _ in pairs), 0
    differing = []
    for local, remote in pairs:
        steps = is_intact(Path(local.place), remote)
        try:
            while True:
                yield Progress(min(before + next(steps).done, total), total, "bytes")
        except StopIteration as end:
            if not end.value:
                differing.append(local.path)
        before += local.size_bytes
    return differing


def _stays(path: str, upload: UploadSet) -> bool:
    parts = path.split("/")
    return path == _ATTRIBUTES or not _FORBIDDEN_FOLDERS.isdisjoint(parts) or upload.keeps(path)


def _find(text: str, settings: Settings) -> ModelRef:
    ref = from_path(text, settings.home)
    if ref.problem is None:
        return ref
    named = () if is_path(text) else children(settings.workspace_home)
    for child in named:
        if child.name == text:
            return child
    raise WorkspaceNotFound(f"there is no folder '{one_line(text)}'", hint="push takes a folder: ./my-model")


def _name_problem(name: str) -> str | None:
    if name.count("/") != 1:
        return "it needs an owner and a name"
    problem = hub_name_problem(name)
    return None if problem is None else f"it {problem}"


def _branch_problem(branch: str) -> str | None:
    problem = revision_problem(branch)
    if problem is not None:
        return f"it {problem}"
    if len(branch) > _LONGEST_BRANCH or _NOT_IN_BRANCH.search(branch):
        return "git does not allow such a name"
    if is_commit(branch) or branch == "HEAD" or branch.startswith("refs/"):
        return "it names something else than a branch"
    return None
