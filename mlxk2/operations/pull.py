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
    answer = PullResult(one_line(request.text), "unknown", "", None)
    try:
        target = find_target(request, settings)
        answer = replace(answer, model=target.name, expanded_name=target.expanded_name)
        return (yield from _pull(_Pull(request, target, settings, answer)))
    except KeyboardInterrupt:
        hint = f"what arrived is kept; to go on: mlxk2 pull {answer.model}"
        raise _with_data(Interrupted("the download was interrupted", hint=hint), answer) from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        hint = "HF_HOME or HF_HUB_CACHE tells where the cache is"
        raise _with_data(PullFailed(f"the cache cannot be used: {reason}", hint=hint), answer) from error
    except UsageError:
        raise
    except MlxkError as error:
        raise _with_data(error, answer) from error.__cause__


@dataclass(frozen=True)
class _Pull:
    """One pull: what was asked, of what, where, and the part of the answer that is known from the start."""

    request: PullRequest
    target: PullTarget
    settings: Settings
    answer: PullResult

    @property
    def writer(self) -> RepoWriter:
        return RepoWriter(self.settings.hub_cache, self.target.name)


def _with_data(error: MlxkError, answer: PullResult) -> MlxkError:
    """Give an error the partial answer that scripts look at."""
    if error.data is None:
        status = "failed" if isinstance(error, _FAILURES) else "error"
        status = "access_denied" if isinstance(error, AccessDenied) else status
        status = "corrupted" if isinstance(error, ModelCorrupted) else status
        error.data = replace(answer, download_status=status, message=error.message)
    return error


def _pull(pull: _Pull) -> Generator[Event, None, PullResult]:
    ready = _ready(pull)
    if ready is not None:
        return ready
    from mlxk2.hub.session import check_reachable
    from mlxk2.hub.source import open_source

    check_reachable(pull.settings.hub)
    yield Started(pull.target.name)
    with open_source(pull.settings.hub, pull.target.name, pull.target.revision) as source:
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
    if pull.request.force:
        return None
    found = cached_inspection(pull.target, pull.settings)
    if found is None or found.findings:
        return None
    message = "already in the cache, and healthy"
    if pull.target.expanded_name is not None:
        message += f"; for another model of a similar name write org/name, not {one_line(pull.request.text)}"
    return replace(
        pull.answer, download_status="already_exists", message=message, commit_hash=_or_absent(found.ref.revision)
    )


def _or_absent(value: Any) -> Any:
    return ABSENT if value is None else value


def _plan(pull: _Pull, source: ModelSource) -> Generator[Event, None, PullPlan]:
    """Compare with the cache; what is known to be broken there is trusted in nothing."""
    commit = source.state.commit
    cached = inspect_commit(pull.target.name, commit, pull.settings)
    deep = pull.request.force or (cached is not None and bool(cached.findings))
    plan = yield from compare(source.files, pull.request, pull.writer, deep=deep)
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
        _answer(pull, source, plan),
        download_status="planned",
        message=f"would fetch {count} of {len(plan.files)} files, {format_size(missing, ' ')}; {verdict}",
        runtime_warning=ABSENT if preview.runtime_compatible else preview.reason,
        bytes_downloaded=0,
        files=tuple(FileAction(f.remote.path, f.remote.size_bytes, f.action) for f in plan.files),
        preview=preview,
    )


def _fetch(pull: _Pull, source: ModelSource) -> Generator[Event, None, PullResult]:
    """Fetch what is missing: the small files first, which tell what the rest will be good for."""
    plan = yield from _plan(pull, source)
    writer, fetched = pull.writer, _Fetched(plan.bytes_present)
    small = [file for file in plan.to_fetch if file.size_bytes <= SMALL_BYTES]
    large = [file for file in plan.to_fetch if file.size_bytes > SMALL_BYTES]
    ref = names_a_ref(pull.target)
    writer.prepare(ref)
    try:
        yield from _download(small, plan, source, writer, fetched)
        warning = None if pull.request.is_partial else _runtime_warning(pull, source)
        if warning is not None:
            yield Warned(f"{pull.target.name} will not run here: {warning}")
        yield from _download(large, plan, source, writer, fetched)
        commit, paths = source.state.commit, [file.path for file in source.files]
        writer.write_snapshot(commit, [(file.remote.path, file.remote.digest) for file in plan.chosen], paths)
        if ref is not None:
            writer.write_ref(ref, commit)
    finally:
        writer.remove_if_empty()
    answer = replace(
        _answer(pull, source, plan, fetched.lost),
        runtime_warning=_or_absent(warning),
        bytes_downloaded=fetched.received,
    )
    return _checked(pull, source, plan, answer)


@dataclass
class _Fetched:
    """How far a pull is. Units: bytes; `received` counts what came over the network, repeats included; `lost` was wrong."""

    present: int
    received: int = 0
    lost: int = 0


def _download(
    files: list[RemoteFile], plan: PullPlan, source: ModelSource, writer: RepoWriter, fetched: _Fetched
) -> Generator[Event, None, None]:
    if not files:
        return
    download = source.download(files, writer.blob, present=fetched.present, total=plan.bytes_total)
    yield from download.run()
    fetched.received += download.bytes_received
    fetched.lost += download.bytes_lost
    fetched.present += sum(file.size_bytes for file in files)


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


def _answer(pull: _Pull, source: ModelSource, plan: PullPlan, lost: int = 0) -> PullResult:
    warnings = "; ".join(dict.fromkeys(source.warnings))
    return replace(
        pull.answer,
        commit_hash=source.state.commit,
        preflight_warning=warnings or ABSENT,
        bytes_total=plan.bytes_total,
        bytes_reused=plan.bytes_present - lost,
    )


def _checked(pull: _Pull, source: ModelSource, plan: PullPlan, answer: PullResult) -> PullResult:
    """Look at what is in the cache now. Raises: ModelCorrupted where the Hub itself has no sound model."""
    fetched = format_size(answer.bytes_downloaded, " ")
    message = f"{len(plan.chosen)} files complete and verified, {fetched} fetched"
    if answer.bytes_reused:
        message += f", {format_size(answer.bytes_reused, ' ')} were there"
    done = replace(answer, download_status="success", message=message)
    if pull.request.is_partial:
        return replace(done, message=f"{message}; the rest of the model was left out")
    found = inspect_commit(pull.target.name, source.state.commit, pull.settings)
    if found is None or found.findings:
        reason = found.findings[0].message if found is not None else "it was removed meanwhile"
        broken = f"everything was fetched as the Hub has it, but that is no sound model: {reason}"
        raise ModelCorrupted(
            broken,
            hint=f"mlxk2 health {pull.target.name} --verbose tells more; mlxk2 rm {pull.target.name} removes it",
            data=replace(done, download_status="corrupted", message=broken),
        )
    return done
