"""Remove a model, or one revision of it: a plan that only reads, then its execution."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxk2.envelope import ABSENT
from mlxk2.errors import (
    AmbiguousMatch,
    CacheNotFound,
    DeletionFailed,
    LocksPresent,
    PermissionDenied,
    UsageError,
)
from mlxk2.settings import Settings
from mlxk2.store import workspace
from mlxk2.store.deletion import Deletion, clean_locks, delete, plan_deletion
from mlxk2.store.hf_cache import has_sentinel, lock_files
from mlxk2.store.layout import SENTINEL_NAME, is_commit
from mlxk2.store.pull_lock import PullLock, is_left_over, released
from mlxk2.store.resolve import ModelSpec, find_cached, find_snapshot
from mlxk2.units import format_size


@dataclass(frozen=True)
class RmPlan:
    """What `rm` would do. `exact` is False where the name was only a part of the model's."""

    model: str
    revision: str | None
    exact: bool
    deletion: Deletion
    locks: tuple[str, ...]
    hub: Path

    @property
    def blocking_locks(self) -> tuple[str, ...]:
        """The lock files that say somebody may be at work; one of ours whose process has died says nothing."""
        return tuple(path for path in self.locks if not is_left_over(path))

    @property
    def summary(self) -> str:
        """What goes, in one line."""
        count = len(self.deletion.snapshots)
        what = f"{count} revision{'' if count == 1 else 's'}"
        return f"{what}, {format_size(self.deletion.freed_bytes, ' ')}"


@dataclass(frozen=True)
class RmResult:
    model: str
    action: str
    message: str
    requires_confirmation: bool
    matches: tuple[str, ...]
    lock_files_cleaned: int
    commit_hash: Any = ABSENT
    locks_detected: Any = ABSENT
    lock_files: Any = ABSENT
    freed_bytes: Any = ABSENT
    revisions: Any = ABSENT


def plan_rm(text: str, settings: Settings) -> RmPlan:
    """Find what `text` selects and all that would go with it; changes nothing.

    Raises: UsageError, CacheNotFound, ModelNotFound, AmbiguousMatch, HashNotFound, PermissionDenied.
    """
    hub = settings.hub_cache
    if workspace.is_path(text):
        raise UsageError(f"rm removes models from the cache; '{text}' is a folder", hint="mlxk2 list --all")
    if not hub.is_dir():
        raise CacheNotFound("there is no model cache", hint="HF_HOME or HF_HUB_CACHE tells where it is")
    if settings.strict_test_delete and not has_sentinel(hub):
        raise PermissionDenied(
            f"MLXK2_STRICT_TEST_DELETE is set and this cache has no {SENTINEL_NAME}",
            hint="unset MLXK2_STRICT_TEST_DELETE to delete from a real cache",
        )
    spec = ModelSpec.parse(text)
    try:
        match = find_cached(spec, settings)
    except AmbiguousMatch as several:
        several.data = _ambiguous(text, several)
        raise
    chosen = None if spec.revision is None else (find_snapshot(match.repo, spec.revision),)
    return RmPlan(
        model=match.repo.name,
        revision=chosen[0] if chosen else None,
        exact=match.exact,
        deletion=plan_deletion(hub, match.repo, chosen),
        locks=lock_files(hub, match.repo),
        hub=hub,
    )


def execute_rm(plan: RmPlan, *, force: bool = False, dry_run: bool = False) -> RmResult:
    """Delete what the plan names; a fuzzy match without `force` only asks, a dry run only tells.

    Raises: LocksPresent, PermissionDenied, DeletionFailed.
    """
    asks = not plan.exact and not force
    told = f"would remove {plan.summary}" + ("; --force does it" if asks else "")
    if dry_run:
        return _result(plan, "planned", told, asks=asks)
    if asks:
        return _result(plan, "requires_confirmation", told, asks=True)
    if plan.blocking_locks and not force:
        raise _locked(plan, len(plan.blocking_locks))
    lock = PullLock(plan.hub, plan.model)
    with released(lock):
        if not _taken(lock) and not force:
            raise _locked(plan, 1)
        cleaned = _delete(plan)
    return _result(plan, "deleted", f"removed {plan.summary}", cleaned=cleaned)


def _taken(lock: PullLock) -> bool:
    """Keep pulls away meanwhile; where no lock file can be made nobody else has one either."""
    try:
        return lock.try_take()
    except OSError:
        return True


def _locked(plan: RmPlan, count: int) -> LocksPresent:
    return LocksPresent(
        f"{plan.model} has {count} lock file(s): a download may be running",
        hint=f"if none is: mlxk2 rm {plan.model} --force",
    )


def _delete(plan: RmPlan) -> int:
    try:
        delete(plan.hub, plan.deletion)
        return clean_locks(plan.hub, plan.locks) if plan.deletion.whole else 0
    except PermissionError as refused:
        raise PermissionDenied(
            f"the system refused to remove {_inside(plan, refused)}: {refused.strerror}"
        ) from refused
    except OSError as failed:
        raise DeletionFailed(
            f"could not remove {_inside(plan, failed)}: {failed.strerror}",
            hint=f"mlxk2 health {plan.model}",
        ) from failed


def _inside(plan: RmPlan, error: OSError) -> str:
    """Name the path that failed as it lies in the hub folder."""
    return os.path.relpath(error.filename, plan.hub) if isinstance(error.filename, str) else plan.model


def _result(plan: RmPlan, action: str, message: str, *, asks: bool = False, cleaned: int = 0) -> RmResult:
    return RmResult(
        model=plan.model,
        action=action,
        message=message,
        requires_confirmation=asks,
        matches=(plan.model,),
        lock_files_cleaned=cleaned,
        commit_hash=plan.revision if plan.revision and is_commit(plan.revision) else ABSENT,
        locks_detected=bool(plan.locks),
        lock_files=tuple(os.path.basename(path) for path in plan.locks),
        freed_bytes=plan.deletion.freed_bytes,
        revisions=plan.deletion.snapshots,
    )


def _ambiguous(text: str, error: AmbiguousMatch) -> RmResult:
    matches = tuple(error.extra["matches"])
    return RmResult(text, "ambiguous", error.message, False, matches, 0)
