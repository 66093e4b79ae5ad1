"""Fetch a model into the cache: cached? -> what the Hub has -> may we? -> does it fit? -> fetch, verify, link.

Everything before the download only reads. An interrupted download keeps its bytes, and the next one goes on from there.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mlxk2.envelope import ABSENT
from mlxk2.errors import (
    AccessDenied,
    DownloadFailed,
    InsufficientSpace,
    Interrupted,
    MlxkError,
    ModelCorrupted,
    ModelNotFound,
    Offline,
    PullFailed,
    RevisionNotFound,
    UsageError,
)
from mlxk2.events import Event, Started, Warned
from mlxk2.hub.partial import SMALL_BYTES
from mlxk2.inspection.describe import Inspection
from mlxk2.inspection.preview import Preview, preview_model
from mlxk2.operations.pull_plan import PullPlan, check_space, compare
from mlxk2.operations.pull_target import (
    PullRequest,
    PullTarget,
    cached_inspection,
    find_target,
    inspect_commit,
    names_a_ref,
)
from mlxk2.settings import Settings
from mlxk2.store.pull_lock import PullLock, released
from mlxk2.store.snapshot_writer import RepoWriter
from mlxk2.text import one_line
from mlxk2.units import format_size

if TYPE_CHECKING:
    from mlxk2.hub.remote import RemoteFile
    from mlxk2.hub.source import ModelSource

_FAILURES = (DownloadFailed, ModelNotFound, RevisionNotFound, InsufficientSpace, Offline, Interrupted)


@dataclass(frozen=True)
class FileAction:
    name: str
    size_bytes: int
    action: str


@dataclass(frozen=True)
class PullResult:
    model: str
    download_status: str
    message: str
    expanded_name: str | None
    commit_hash: Any = ABSENT
    preflight_warning: Any = ABSENT
    runtime_warning: Any = ABSENT
    bytes_total: Any = ABSENT
    bytes_downloaded: Any = ABSENT
    bytes_reused: Any = ABSENT
    files: Any = ABSENT
    preview: Any = ABSENT


def pull_model(request: PullRequest, settings: Settings) -> Generator[Event, None, PullResult]:
    """Fetch a model, or with `dry_run` tell what that would be.

    Raises: InvalidName, UsageError, AmbiguousMatch, Offline, AccessDenied, ModelNotFound, RevisionNotFound,
    InsufficientSpace, DownloadFailed, ModelCorrupted, PullFailed, Interrupted. `data` of the error is the answer so far.
    """
    known = _Known(PullResult(one_line(request.text), "unknown", "", None))
    try:
        target = find_target(request, settings)
        known.tell(model=target.name, expanded_name=target.expanded_name)
        return (yield from _pull(_Pull(request, target, settings, known)))
    except KeyboardInterrupt:
        hint = f"what arrived is kept; to go on: {request.command}"
        raise _with_data(Interrupted("the download was interrupted", hint=hint), request, known.answer) from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        hint = "HF_HOME or HF_HUB_CACHE tells where the cache is"
        failed = PullFailed(f"the cache cannot be used: {reason}", hint=hint)
        raise _with_data(failed, request, known.answer) from error
    except UsageError:
        raise
    except MlxkError as error:
        raise _with_data(error, request, known.answer) from error.__cause__


@dataclass
class _Known:
    """The answer so far; an error carries it too."""

    answer: PullResult

    def tell(self, **fields: Any) -> PullResult:
        self.answer = replace(self.answer, **fields)
        return self.answer


@dataclass(frozen=True)
class _Pull:
    """One pull: what was asked, of what, where, and what is known of the answer."""

    request: PullRequest
    target: PullTarget
    settings: Settings
    known: _Known

    @property
    def writer(self) -> RepoWriter:
        return RepoWriter(self.settings.hub_cache, self.target.name)


def _with_data(error: MlxkError, request: PullRequest, answer: PullResult) -> MlxkError:
    """Give an error the partial answer that scripts look at, and its hint the command in the user's own words."""
    if error.hint is not None and error.hint.endswith(f"mlxk2 pull {answer.model}"):
        error.hint = error.hint.replace(f"mlxk2 pull {answer.model}", request.command)
    if error.data is None:
        status = "failed" if isinstance(error, _FAILURES) else "error"
        status = "access_denied" if isinstance(error, AccessDenied) else status
        status = "corrupted" if isinstance(error, ModelCorrupted) else status
        error.data = replace(answer, download_status=status, message=error.message)
    return error


def _pull(pull: _Pull) -> Generator[Event, None, PullResult]:
    ready = _ready(pull)
    if ready is not None and (not pull.request.dry_run or pull.settings.hub.offline):
        if ready.runtime_warning is not ABSENT:
            yield Warned(f"{pull.target.name} will not run here: {ready.runtime_warning}")
        return ready
    from mlxk2.hub.session import check_reachable
    from mlxk2.hub.source import open_source

    check_reachable(pull.settings.hub)
    yield Started(pull.target.name)
    with open_source(pull.settings.hub, pull.target.name, pull.target.revision) as source:
        pull.known.tell(commit_hash=source.state.commit)
        if not source.files:
            raise DownloadFailed(
                f"the Hub lists no files for {pull.target.name}", hint="HF_ENDPOINT tells which Hub", retryable=False
            )
        source.check_access()
        for warning in dict.fromkeys(source.warnings):
            yield Warned(warning)
        if pull.request.dry_run:
            return (yield from _tell(pull, source))
        lock = PullLock(pull.settings.hub_cache, pull.target.name)
        with released(lock):
            waited = yield from lock.take()
            ready = _ready(pull) if waited else None
            return ready if ready is not None else (yield from _fetch(pull, source))


def _ready(pull: _Pull) -> PullResult | None:
    """The answer where a sound model is in the cache already; the network is not asked whether there is a newer one."""
    if pull.request.force or pull.request.is_partial:
        return None
    found = cached_inspection(pull.target, pull.settings)
    if found is None or found.findings or pull.writer.is_partial(found.ref.path.name):
        return None
    message = "already in the cache, and healthy"
    if pull.target.expanded_name is not None:
        message += f"; for another model of a similar name write org/name, not {one_line(pull.request.text)}"
    return replace(
        pull.known.answer,
        download_status="already_exists",
        message=message,
        commit_hash=_or_absent(found.ref.revision),
        runtime_warning=_or_absent(found.info.reason),
    )


def _or_absent(value: Any) -> Any:
    return ABSENT if value is None else value


def _plan(pull: _Pull, source: ModelSource) -> Generator[Event, None, PullPlan]:
    """Compare with the cache; what a pull takes over is hashed, for it says of all files that they are verified."""
    deep = pull.request.force or not pull.request.dry_run
    plan = yield from compare(source.files, pull.request, pull.writer, deep=deep)
    warnings = "; ".join(dict.fromkeys(source.warnings))
    pull.known.tell(
        preflight_warning=warnings or ABSENT,
        bytes_total=plan.bytes_total,
        bytes_downloaded=0,
        bytes_reused=plan.bytes_present,
    )
    check_space(plan, pull.settings.hub_cache)
    return plan


def _tell(pull: _Pull, source: ModelSource) -> Generator[Event, None, PullResult]:
    """The answer of a dry run."""
    plan = yield from _plan(pull, source)
    preview = _preview(pull, source, headers=True)
    missing = plan.bytes_total - plan.bytes_present
    count = len(plan.to_fetch)
    verdict = "runs here" if preview.runtime_compatible else f"will not run here: {preview.reason}"
    return replace(
        pull.known.answer,
        download_status="planned",
        message=f"would fetch {count} of {len(plan.files)} files, {format_size(missing, ' ')}; {verdict}",
        runtime_warning=ABSENT if preview.runtime_compatible else preview.reason,
        files=tuple(FileAction(f.remote.path, f.remote.size_bytes, f.action) for f in plan.files),
        preview=preview,
    )


def _fetch(pull: _Pull, source: ModelSource) -> Generator[Event, None, PullResult]:
    """Fetch what is missing: the small files first, which tell what the rest will be good for."""
    plan = yield from _plan(pull, source)
    small = [file for file in plan.to_fetch if file.size_bytes <= SMALL_BYTES]
    large = [file for file in plan.to_fetch if file.size_bytes > SMALL_BYTES]
    pull.writer.prepare(names_a_ref(pull.target))
    try:
        yield from _download(pull, small, source)
        warning = None if pull.request.is_partial else _runtime_warning(pull, source)
        if warning is not None:
            pull.known.tell(runtime_warning=warning)
            yield Warned(f"{pull.target.name} will not run here: {warning}")
        yield from _download(pull, large, source)
        return _linked(pull, source, plan)
    finally:
        pull.writer.remove_if_empty()


def _download(pull: _Pull, files: list[RemoteFile], source: ModelSource) -> Generator[Event, None, None]:
    if not files:
        return
    before = pull.known.answer
    present = before.bytes_reused + before.bytes_downloaded
    download = source.download(files, pull.writer.blob, present=present, total=before.bytes_total)
    try:
        yield from download.run()
    finally:
        pull.known.tell(
            bytes_downloaded=before.bytes_downloaded + download.bytes_received,
            bytes_reused=before.bytes_reused - download.bytes_lost,
        )


def _linked(pull: _Pull, source: ModelSource, plan: PullPlan) -> PullResult:
    """Make the revision visible, now that all of it is there. Raises: ModelCorrupted, OSError."""
    commit, writer = source.state.commit, pull.writer
    links = [(file.remote.path, file.remote.digest) for file in plan.chosen]
    writer.write_snapshot(commit, links, [file.path for file in source.files])
    was_partial = pull.request.is_partial and len(plan.chosen) < len(plan.files)
    writer.note_partial(commit, is_partial=was_partial)
    found = inspect_commit(pull.target.name, commit, pull.settings)
    is_sound = found is not None and not found.findings
    moves = _move_ref(pull, commit, is_whole=is_sound and not was_partial)
    message = _message(pull, plan) + ("" if moves else "; the revision that was there stays the default")
    done = pull.known.tell(download_status="success", message=message)
    if was_partial:
        return replace(done, message=f"{message}; the rest of the model was left out")
    if not is_sound:
        raise _not_sound(pull, source, found)
    return done


def _move_ref(pull: _Pull, commit: str, *, is_whole: bool) -> bool:
    """Let the branch or tag name the commit, unless it names a sound one and this one is not; tells whether it does."""
    ref = names_a_ref(pull.target)
    if ref is None:
        return True
    before = cached_inspection(replace(pull.target, revision=ref), pull.settings)
    if not is_whole and before is not None and before.ref.revision != commit and not before.findings:
        return False
    pull.writer.write_ref(ref, commit)
    return True


def _message(pull: _Pull, plan: PullPlan) -> str:
    answer = pull.known.answer
    fetched = format_size(answer.bytes_downloaded, " ")
    there = f", {format_size(answer.bytes_reused, ' ')} were there" if answer.bytes_reused else ""
    return f"{len(plan.chosen)} files complete and verified, {fetched} fetched{there}"


def _not_sound(pull: _Pull, source: ModelSource, found: Inspection | None) -> ModelCorrupted:
    """The error for a revision of which all is there, and which is no sound model."""
    name = pull.target.name
    if found is None:
        return ModelCorrupted(f"{name} was removed from the cache meanwhile", hint=f"mlxk2 pull {name}")
    strange = sorted(found.files.by_name.keys() - {one_line(file.path) for file in source.files})
    reason, hint = found.findings[0].message, f"mlxk2 health {name} --verbose tells more"
    if strange:
        return ModelCorrupted(
            f"{name} is not sound: {reason}; its folder in the cache holds files that the Hub does not list: {strange[0]}",
            hint=f"mlxk2 rm {name} --force, then {pull.request.command}",
        )
    return ModelCorrupted(f"everything was fetched as the Hub has it, but that is no sound model: {reason}", hint=hint)


def _preview(pull: _Pull, source: ModelSource, *, headers: bool) -> Preview:
    """Look at the model's files before they are all there: on the disk where they are, else over the network."""
    blobs = {file.path: pull.writer.blob(file.digest) for file in source.files}

    def read(path: str, start: int, length: int) -> bytes:
        try:
            with open(blobs[path], "rb") as file:
                file.seek(start)
                return file.read(length)
        except OSError:
            return source.read(path, start, length)

    listed = [(file.path, file.size_bytes) for file in source.files]
    return preview_model(pull.target.name, source.state.commit, listed, read, headers=headers)


def _runtime_warning(pull: _Pull, source: ModelSource) -> str | None:
    """Say why the model will not run here, or None; a look that fails is no reason to stop a download."""
    try:
        preview = _preview(pull, source, headers=False)
    except (DownloadFailed, OSError):
        return None
    return None if preview.runtime_compatible else preview.reason
