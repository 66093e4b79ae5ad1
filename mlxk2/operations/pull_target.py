"""From what the user typed to the model that `pull` is about, and what the cache has of it. Opens no socket."""

from __future__ import annotations

from dataclasses import dataclass
from shlex import quote

from mlxk2.errors import AmbiguousMatch, HashNotFound, InvalidName, ModelNotFound, UsageError
from mlxk2.inspection.describe import Inspection, inspect_model
from mlxk2.settings import Settings
from mlxk2.store import workspace
from mlxk2.store.hf_cache import CachedRepo, scan
from mlxk2.store.layout import DEFAULT_ORGANISATION, hub_name_problem, is_commit, revision_problem
from mlxk2.store.resolve import ModelSpec, find_cached, select_revision
from mlxk2.text import one_line


@dataclass(frozen=True)
class PullRequest:
    """What the user asked for. `include` and `exclude` are fnmatch patterns; `force` checks everything again."""

    text: str
    revision: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    force: bool = False
    dry_run: bool = False

    @property
    def is_partial(self) -> bool:
        return bool(self.include or self.exclude)

    @property
    def command(self) -> str:
        """The command as it is typed again."""
        words = ["mlxk2", "pull", one_line(self.text)]
        words += ["--revision", one_line(self.revision)] if self.revision is not None else []
        for flag, patterns in (("--include", self.include), ("--exclude", self.exclude)):
            for pattern in patterns:
                words += [flag, one_line(pattern)]
        return " ".join(map(quote, [*words, *(["--force"] if self.force else [])]))


@dataclass(frozen=True)
class PullTarget:
    """The model that is meant. `expanded_name` is its full name where a bare one was typed; `revision` None is the main branch."""

    name: str
    expanded_name: str | None
    revision: str | None


def find_target(request: PullRequest, settings: Settings) -> PullTarget:
    """Find out which model is meant: a full name is exact, a bare one may be cached under a longer one.

    Raises: InvalidName, UsageError, AmbiguousMatch.
    """
    spec = ModelSpec.parse(request.text)
    _check(spec)
    revision = spec.revision if request.revision is None else request.revision
    if request.revision and spec.revision and request.revision != spec.revision:
        raise UsageError(
            f"two revisions: '@{one_line(spec.revision)}' and '--revision {one_line(request.revision)}'",
            hint="give one of them",
        )
    if revision is not None and revision_problem(revision) is not None:
        raise InvalidName(
            f"'{one_line(revision[:100])}' is no revision: it {revision_problem(revision)}",
            hint=f"mlxk2 pull {spec.name}@main, or another branch, tag or commit",
        )
    if "/" in spec.name:
        return PullTarget(spec.name, None, revision)
    name = _expanded(spec, settings)
    return PullTarget(name, name if name != spec.name else None, revision)


def cached_inspection(target: PullTarget, settings: Settings) -> Inspection | None:
    """Inspect what the cache has of the revision; None where that is nothing. Raises: AmbiguousMatch."""
    repo = _cached_repo(target.name, settings)
    if repo is None:
        return None
    try:
        ref = select_revision(repo, ModelSpec(target.name, target.name, target.revision))
    except HashNotFound:
        return None
    return None if ref.problem is not None else inspect_model(ref)


def inspect_commit(name: str, commit: str, settings: Settings) -> Inspection | None:
    """Inspect one commit of a model in the cache; None where it is not there."""
    repo = _cached_repo(name, settings)
    return inspect_model(repo.to_ref(commit)) if repo is not None and commit in repo.snapshots() else None


def names_a_ref(target: PullTarget) -> str | None:
    """Return the branch or tag that should point to what is fetched; None for a commit."""
    revision = target.revision or "main"
    return None if is_commit(revision) else revision


def _check(spec: ModelSpec) -> None:
    problem = hub_name_problem(spec.name)
    if problem is None:
        return
    shown = spec.name if len(spec.name) <= 100 else spec.name[:97] + "..."
    hint = "mlxk2 pull org/model"
    if workspace.is_path(spec.name) and not spec.name.startswith("/"):
        hint = "pull fetches from the Hub; a folder of your own is there already"
    raise InvalidName(f"'{one_line(shown)}' is not a model name: it {problem}", hint=hint)


def _expanded(spec: ModelSpec, settings: Settings) -> str:
    try:
        return find_cached(ModelSpec(spec.text, spec.name, None), settings).repo.name
    except AmbiguousMatch as several:
        several.hint = f"one of them, or {DEFAULT_ORGANISATION}/{spec.name} for the model of exactly that name"
        raise
    except ModelNotFound:
        return f"{DEFAULT_ORGANISATION}/{spec.name}"


def _cached_repo(name: str, settings: Settings) -> CachedRepo | None:
    return next((repo for repo in scan(settings.hub_cache) if repo.name == name), None)
