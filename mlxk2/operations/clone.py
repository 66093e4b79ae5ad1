"""Copy a model into a plain folder of the user's own: from the cache, or through pull; complete or absent.

The cache is read, never changed, but for what pull puts into it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any

from mlxk2.envelope import ABSENT
from mlxk2.errors import (
    AmbiguousMatch,
    CloneFailed,
    CloneOperationError,
    ClonePullFailed,
    CloneSourceMissing,
    CloneUnhealthy,
    DependencyMissing,
    FilesystemError,
    InsufficientSpace,
    Interrupted,
    InvalidName,
    InvalidTarget,
    MlxkError,
    ModelCorrupted,
    Offline,
    PermissionDenied,
    UsageError,
)
from mlxk2.events import Event, Progress, Started
from mlxk2.inspection.describe import Inspection
from mlxk2.inspection.files import is_part_of_model
from mlxk2.inspection.integrity import listed
from mlxk2.operations.pull import pull_model
from mlxk2.operations.pull_target import PullRequest, PullTarget, cached_inspection, inspect_commit
from mlxk2.operations.pull_target import find_target as find_model_to_pull
from mlxk2.settings import Settings
from mlxk2.store.copy_on_write import COPY, Copied, copy_file
from mlxk2.store.model_ref import ModelRef
from mlxk2.store.origin import SENTINEL_FILE, Origin, OriginFile, write_origin
from mlxk2.store.resolve import ModelSpec
from mlxk2.store.snapshot_files import SourceFile, snapshot_files
from mlxk2.store.target import Target, building, check_space, find_target
from mlxk2.store.workspace import is_path
from mlxk2.text import one_line
from mlxk2.units import format_size

_STATUS = (
    ((InvalidTarget, FilesystemError), "filesystem_error"),
    ((ClonePullFailed,), "pull_failed"),
    ((CloneSourceMissing,), "cache_not_found"),
    ((CloneUnhealthy,), "health_check_failed"),
)


@dataclass(frozen=True)
class CloneRequest:
    """What the user asked for. The texts are as they were typed; `target` has its `~` expanded."""

    text: str
    target_text: str
    target: Path
    branch: str | None = None
    health_check: bool = True


@dataclass(frozen=True)
class CloneResult:
    model: str
    clone_status: str
    message: str
    target_dir: str
    health_check: bool
    commit_hash: Any = ABSENT
    copy_method: Any = ABSENT
    files: Any = ABSENT
    bytes: Any = ABSENT


def clone_model(request: CloneRequest, settings: Settings) -> Generator[Event, None, CloneResult]:
    """Copy the model that is meant; the target is complete afterwards, or absent.

    Raises: UsageError, InvalidTarget, InsufficientSpace, FilesystemError, ClonePullFailed, CloneSourceMissing, CloneUnhealthy,
    CloneFailed, CloneOperationError, DependencyMissing, Interrupted. `data` of the error is the answer so far.
    """
    answer = CloneResult(one_line(request.text), "error", "", _absolute(request.target), request.health_check)
    try:
        wanted = _wanted(request, settings)
        answer = replace(answer, model=wanted.name)
        target = _target(request, settings)
        source = yield from _source(wanted, request, settings)
        answer = replace(answer, commit_hash=source.ref.revision)
        return (yield from _copy(_Copy(source, target, answer), settings.hub_cache))
    except UsageError:
        raise
    except KeyboardInterrupt:
        raise _with_data(Interrupted("the clone was interrupted; no half of it is left"), answer) from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        failed = FilesystemError(f"'{one_line(request.target_text)}' could not be written: {reason}")
        raise _with_data(failed, answer) from error
    except InsufficientSpace as error:
        full = FilesystemError(error.message, hint=error.hint, detail=_reason(error))
        raise _with_data(full, answer) from error.__cause__
    except MlxkError as error:
        raise _with_data(error, answer) from error.__cause__


def _with_data(error: MlxkError, answer: CloneResult) -> MlxkError:
    """Give an error the partial answer that scripts look at, in place of a pull's."""
    status = next((word for types, word in _STATUS if isinstance(error, types)), "error")
    error.data = replace(answer, clone_status=status, message=error.message)
    return error


def _absolute(path: Path) -> str:
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):
        return str(path)


def _wanted(request: CloneRequest, settings: Settings) -> PullTarget:
    """Find out which model is meant. Raises: UsageError for what a clone cannot be of, CloneOperationError."""
    _check_request(request)
    try:
        return find_model_to_pull(PullRequest(request.text, request.branch), settings)
    except (InvalidName, AmbiguousMatch, PermissionDenied) as error:
        raise _not_started(error) from error


def _not_started(error: MlxkError) -> CloneOperationError:
    hint = "mlxk2 clone org/model FOLDER" if isinstance(error, InvalidName) else error.hint
    return CloneOperationError(error.message, hint=hint, detail=_reason(error), **error.extra)


def _check_request(request: CloneRequest) -> None:
    if is_path(request.text):
        raise UsageError(
            f"'{one_line(request.text)}' is a folder, not a model of the cache or the Hub",
            hint=f"cp -r {quote(one_line(request.text))} {quote(one_line(request.target_text) or './my-model')}",
        )
    if not request.target_text:
        raise UsageError("the target has no name", hint=f"mlxk2 clone {quote(one_line(request.text))} ./my-model")
    if request.branch == "":
        raise UsageError("--branch has no name", hint="leave --branch out for the main branch")
    revision = ModelSpec.parse(request.text).revision
    if request.branch is not None and revision is not None and request.branch != revision:
        raise UsageError(
            f"two revisions: '@{one_line(revision)}' and '--branch {one_line(request.branch)}'", hint="give one of them"
        )


def _target(request: CloneRequest, settings: Settings) -> Target:
    target = find_target(request.target_text, request.target)
    hub = Path(os.path.realpath(settings.hub_cache))
    if hub in (target.path, *target.path.parents) or target.path in hub.parents:
        raise InvalidTarget(
            f"'{one_line(target.text)}' is a part of the model cache", hint="choose a place outside of it"
        )
    return target


def _source(wanted: PullTarget, request: CloneRequest, settings: Settings) -> Generator[Event, None, Inspection]:
    """The model in the cache, fetched or repaired where that is needed."""
    found = _cached(wanted, settings)
    if found is not None and not (request.health_check and found.findings):
        return found
    commit = yield from _pulled(wanted, found, settings)
    found = _cached(wanted, settings) if commit is None else inspect_commit(wanted.name, commit, settings)
    if found is None:
        raise CloneSourceMissing(
            f"{wanted.name} was fetched, but is not in the cache", hint="was it removed meanwhile? try again"
        )
    if request.health_check and found.findings:
        raise _unhealthy(wanted, found.findings[0].message)
    return found


def _cached(wanted: PullTarget, settings: Settings) -> Inspection | None:
    try:
        return cached_inspection(wanted, settings)
    except (AmbiguousMatch, PermissionDenied) as error:
        raise _not_started(error) from error


def _pulled(wanted: PullTarget, found: Inspection | None, settings: Settings) -> Generator[Event, None, str | None]:
    """Let pull do its work; returns the commit where it names one. `found` is what the cache has, which is broken."""
    try:
        result = yield from pull_model(PullRequest(wanted.name, wanted.revision), settings)
    except (Interrupted, DependencyMissing, UsageError):
        raise
    except ModelCorrupted as broken:
        # All of it is in the cache; whether it being unsound matters is not for pull to say.
        result = broken.data
    except MlxkError as error:
        if isinstance(error, Offline) and found is not None:
            raise _unhealthy(wanted, found.findings[0].message) from error
        more = {"retryable": True, **error.extra} if error.retryable else error.extra
        raise ClonePullFailed(error.message, hint=error.hint, detail=_reason(error), **more) from error
    return None if result.commit_hash is ABSENT else str(result.commit_hash)


def _reason(error: MlxkError) -> dict[str, Any]:
    reason = {"type": error.type}
    return reason if error.detail is None else {**reason, "detail": error.detail}


def _unhealthy(wanted: PullTarget, reason: str) -> CloneUnhealthy:
    at = "" if wanted.revision is None else f"@{wanted.revision}"
    return CloneUnhealthy(
        f"{wanted.name} is not sound: {reason}",
        hint=f"mlxk2 pull {wanted.name}{at} --force repairs what the Hub has; --no-health-check copies it as it is",
    )


def _rotten(ref: ModelRef, names: list[str]) -> CloneUnhealthy:
    at = "" if ref.revision is None else f"@{ref.revision}"
    return CloneUnhealthy(
        f"{ref.name} is not sound: Content hash mismatch: {listed(sorted(names))}",
        hint=f"mlxk2 pull {ref.name}{at} --force fetches them anew; --no-health-check copies them as they are",
    )


@dataclass(frozen=True)
class _Copy:
    """One copy: what, where to, and the part of the answer that is known before."""

    source: Inspection
    target: Target
    answer: CloneResult


def _copy(copy: _Copy, hub: Path) -> Generator[Event, None, CloneResult]:
    ref = copy.source.ref
    # The largest first: it tells at once whether blocks can be shared, and so whether space is needed.
    own = SENTINEL_FILE.casefold()
    listed = (file for file in snapshot_files(ref, hub) if file.name.split("/", 1)[0].casefold() != own)
    files = sorted(listed, key=lambda file: file.size_bytes, reverse=True)
    total = sum(file.size_bytes for file in files)
    yield Started(ref.name)
    with building(copy.target, total) as folder:
        copied = yield from _copy_files(files, folder, copy.target)
        wrong = [file.name for file in files if not copied[file.name].is_original]
        if wrong and copy.answer.health_check:
            raise _rotten(ref, wrong)
        written = _measured(files, copied, folder)
        origin = Origin(
            ref.name, ref.revision, {name: file for name, file in written.items() if is_part_of_model(name)}
        )
        write_origin(folder, origin, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    method = _method(files, copied)
    return replace(
        copy.answer,
        clone_status="success",
        message=f"{len(files)} files, {format_size(total, ' ')}, by {method}",
        copy_method=method,
        files=len(files),
        bytes=total,
    )


def _copy_files(files: list[SourceFile], folder: Path, target: Target) -> Generator[Event, None, dict[str, Copied]]:
    copied: dict[str, Copied] = {}
    total, done = sum(file.size_bytes for file in files), 0
    space_checked = False

    def before_bytes() -> None:
        nonlocal space_checked
        if not space_checked:
            check_space(target, total - done)
            space_checked = True

    yield Progress(0, total, "bytes")
    for file in files:
        place = folder / file.name
        place.parent.mkdir(parents=True, exist_ok=True)
        with closing(copy_file(file, str(place), before_bytes)) as steps:
            while file.name not in copied:
                try:
                    done += next(steps)
                    yield Progress(done, total, "bytes")
                except StopIteration as end:
                    copied[file.name] = end.value
    return copied


def _measured(files: list[SourceFile], copied: dict[str, Copied], folder: Path) -> dict[str, OriginFile]:
    """Look at what was written. Raises: CloneFailed where a file is not as long as its source."""
    written = {}
    for file in files:
        state = os.lstat(folder / file.name)
        if state.st_size != file.size_bytes:
            raise CloneFailed(
                f"the copy of '{one_line(file.name)}' has {state.st_size} bytes instead of {file.size_bytes}",
                hint="try again when nothing writes to the cache",
            )
        written[file.name] = OriginFile(state.st_size, copied[file.name].sha256, state.st_mtime_ns)
    return written


def _method(files: list[SourceFile], copied: dict[str, Copied]) -> str:
    """What all files have in common; an empty one says nothing."""
    methods = {copied[file.name].method for file in files if file.size_bytes}
    return methods.pop() if len(methods) == 1 else COPY
