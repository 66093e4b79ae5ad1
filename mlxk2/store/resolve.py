"""From what a user typed to the model that is meant: exactly one, or an error that lists what could be meant."""

from __future__ import annotations

import os
from typing import NamedTuple

from mlxk2.errors import AmbiguousMatch, HashNotFound, ModelNotFound
from mlxk2.settings import Settings
from mlxk2.store import hf_cache, workspace
from mlxk2.store.hf_cache import CachedRepo
from mlxk2.store.layout import DEFAULT_ORGANISATION, is_commit_prefix, name_problem, revision_problem
from mlxk2.store.model_ref import ModelRef

# Of the models that an ambiguous name fits.
_MOST_SHOWN = 5


class ModelSpec(NamedTuple):
    """A model argument taken apart: "org/model@rev" is name "org/model", revision "rev"."""

    text: str
    name: str
    revision: str | None

    @classmethod
    def parse(cls, text: str) -> ModelSpec:
        """Split at the last "@"; "@abc1" has an empty name and selects by commit alone."""
        name, at, revision = text.rpartition("@")
        return cls(text, name, revision) if at else cls(text, text, None)


class RepoMatch(NamedTuple):
    """The cached model that a text selects; `exact` is False where it was found as a part of the name."""

    repo: CachedRepo
    exact: bool


def find_model(text: str, settings: Settings) -> ModelRef:
    """Find the one model that `text` means, in the cache or as a workspace.

    Raises: ModelNotFound, AmbiguousMatch (`matches`), HashNotFound (`available_hashes`).
    """
    if workspace.is_path(text):
        return _existing_folder(text, settings)
    return find_among(text, hf_cache.scan(settings.hub_cache), workspace.children(settings.workspace_home))


def find_among(text: str, repos: tuple[CachedRepo, ...], own: tuple[ModelRef, ...]) -> ModelRef:
    """Find the one model that `text` means; folders, `own`, go by the last part of their path. No text is a path here.

    Raises: ModelNotFound, AmbiguousMatch (`matches`), HashNotFound (`available_hashes`).
    """
    spec = ModelSpec.parse(text)
    if not spec.name and spec.revision is not None:
        return _only(spec, _by_commit(spec.revision, repos))
    check_names(spec)
    found = _exact(spec.name, repos)
    if found is not None:
        return select_revision(found, spec)
    own = own if spec.revision is None else ()
    named = [ref for ref in own if workspace.own_name(ref) == spec.name]
    if len(named) > 1:
        raise ambiguous(spec.text, sorted(ref.name for ref in named))
    if named:
        return named[0]
    if "/" in spec.name:
        raise _not_found(spec, repos)
    return _the_similar_one(spec, repos, own)


def find_cached(spec: ModelSpec, settings: Settings) -> RepoMatch:
    """Find the one cached model that a destructive command may work on. Raises as `find_model` does."""
    check_names(spec)
    repos = hf_cache.scan(settings.hub_cache)
    found = _exact(spec.name, repos)
    if found is not None:
        return RepoMatch(found, exact=True)
    similar = [] if "/" in spec.name else [r for r in repos if _contains(r.name, spec.name)]
    if not similar and _of_this_name(spec.name, workspace.children(settings.workspace_home)) is not None:
        raise ModelNotFound(
            f"'{spec.name}' is a workspace, not a model of the cache", hint="delete the folder yourself if you mean it"
        )
    if not similar:
        raise _not_found(spec, repos)
    if len(similar) > 1:
        raise ambiguous(spec.text, sorted(r.name for r in similar))
    return RepoMatch(similar[0], exact=False)


def match_models(pattern: str | None, settings: Settings) -> tuple[ModelRef, ...]:
    """List the models whose full name contains `pattern`, ignoring case; all of them without one. Sorted by name."""
    if pattern is not None and workspace.is_path(pattern):
        return (_existing_folder(pattern, settings),)
    cached = (r for r in hf_cache.scan(settings.hub_cache) if pattern is None or _contains(r.name, pattern))
    own = (w for w in workspace.children(settings.workspace_home) if pattern is None or _contains(w.name, pattern))
    refs = [repo.to_ref(repo.default_snapshot()) for repo in cached]
    return tuple(sorted([*refs, *own], key=lambda ref: ref.name))


def models_to_check(text: str | None, settings: Settings) -> tuple[ModelRef, ...]:
    """List what `health` checks: all, one exact name, a pattern, or one revision (missing ones are kept as a problem).

    Raises: AmbiguousMatch where a revision is asked of a pattern that fits several models.
    """
    if text is None or workspace.is_path(text):
        return match_models(text, settings)
    spec = ModelSpec.parse(text)
    if not spec.name and spec.revision is not None:
        return _by_commit(spec.revision, hf_cache.scan(settings.hub_cache))
    exact = _exact(spec.name, hf_cache.scan(settings.hub_cache))
    if exact is not None:
        return (_revision_or_problem(exact, spec),)
    if "/" in spec.name and name_problem(spec.name) is None:
        return ()
    found = match_models(spec.name, settings)
    if spec.revision is None:
        named = _of_this_name(spec.name, found)
        return found if named is None else (named,)
    if len(found) > 1:
        raise ambiguous(spec.text, [ref.name for ref in found])
    repos = [r for r in hf_cache.scan(settings.hub_cache) if found and r.name == found[0].name]
    return tuple(_revision_or_problem(repo, spec) for repo in repos)


def select_revision(repo: CachedRepo, spec: ModelSpec) -> ModelRef:
    """Choose the snapshot: the revision that was asked for, else the default one. Raises: HashNotFound, AmbiguousMatch."""
    if spec.revision is None:
        return repo.to_ref(repo.default_snapshot())
    return repo.to_ref(find_snapshot(repo, spec.revision))


def find_snapshot(repo: CachedRepo, revision: str) -> str:
    """Find the snapshot folder that a branch, tag, commit or commit prefix means. Raises: HashNotFound, AmbiguousMatch."""
    names = repo.snapshots()
    if revision_problem(revision) is None:
        commit = repo.ref(revision)
        if commit in names:
            return commit  # type: ignore[return-value]
        if revision in names:
            return revision
    hits = [n for n in names if is_commit_prefix(revision) and n.startswith(revision.lower())]
    if len(hits) > 1:
        raise ambiguous(f"{repo.name}@{revision}", [f"{repo.name}@{hit}" for hit in sorted(hits)])
    if not hits:
        available = [name[:8] for name in names]
        raise HashNotFound(
            f"{repo.name} has no revision '{revision}'",
            hint=f"revisions in the cache: {', '.join(available) or 'none'} (at least 4 characters of a hash)",
            available_hashes=available,
        )
    return hits[0]


def check_names(spec: ModelSpec) -> None:
    """Refuse what cannot be a name before it gets near a file system. Raises: ModelNotFound."""
    problem = name_problem(spec.name)
    if problem is not None:
        shown = spec.name if len(spec.name) <= 120 else spec.name[:117] + "..."
        raise ModelNotFound(
            f"'{shown}' is not a model name: it {problem}",
            hint="mlxk2 list --all shows the names; a folder is written as ./name",
        )


def _existing_folder(text: str, settings: Settings) -> ModelRef:
    ref = workspace.from_path(text, settings.home)
    if ref.problem is not None:
        raise ModelNotFound(f"there is no folder '{text}'", hint="a model of the cache is written without ./")
    return ref


def _exact(name: str, repos: tuple[CachedRepo, ...]) -> CachedRepo | None:
    wanted = (name,) if "/" in name else (f"{DEFAULT_ORGANISATION}/{name}", name)
    by_name = {repo.name: repo for repo in repos}
    return next((by_name[w] for w in wanted if w in by_name), None)


def _of_this_name(name: str, refs: tuple[ModelRef, ...]) -> ModelRef | None:
    return next((ref for ref in refs if ref.name == name), None)


def _contains(name: str, part: str) -> bool:
    return part.lower() in name.lower()


def _the_similar_one(spec: ModelSpec, repos: tuple[CachedRepo, ...], own: tuple[ModelRef, ...]) -> ModelRef:
    cached = [r for r in repos if _contains(r.name, spec.name)]
    folders = [w for w in own if _contains(workspace.own_name(w), spec.name)]
    if not cached and not folders:
        raise _not_found(spec, repos)
    if len(cached) + len(folders) > 1:
        raise ambiguous(spec.text, sorted([r.name for r in cached] + [w.name for w in folders]))
    return folders[0] if folders else select_revision(cached[0], spec)


def _by_commit(revision: str, repos: tuple[CachedRepo, ...]) -> tuple[ModelRef, ...]:
    if not is_commit_prefix(revision):
        return ()
    found = []
    for repo in repos:
        found += [repo.to_ref(name) for name in repo.snapshots() if name.startswith(revision.lower())]
    return tuple(found)


def _only(spec: ModelSpec, refs: tuple[ModelRef, ...]) -> ModelRef:
    if not refs:
        raise ModelNotFound(
            f"no cached model has the revision '{spec.revision}'", hint="give at least 4 hex characters, or the name"
        )
    if len(refs) > 1:
        raise ambiguous(spec.text, sorted(f"{ref.name}@{ref.path.name}" for ref in refs))
    return refs[0]


def _revision_or_problem(repo: CachedRepo, spec: ModelSpec) -> ModelRef:
    try:
        return select_revision(repo, spec)
    except HashNotFound:
        missing = repo.to_ref(None)
        problem = hf_cache.hash_not_found(spec.revision or "")
        return ModelRef(missing.name, missing.path, None, missing.kind, problem)


def ambiguous(text: str, matches: list[str]) -> AmbiguousMatch:
    """Say which models a text fits: some of them in the hint, all in `matches`."""
    more = f" and {len(matches) - _MOST_SHOWN} more" if len(matches) > _MOST_SHOWN else ""
    hint = "one of: " + ", ".join(matches[:_MOST_SHOWN]) + more
    return AmbiguousMatch(f"'{text}' fits {len(matches)} models", hint=hint, matches=matches)


def _not_found(spec: ModelSpec, repos: tuple[CachedRepo, ...]) -> ModelNotFound:
    own_name = spec.name.rsplit("/", 1)[-1]
    similar = [repo.name for repo in repos if _contains(repo.name, own_name)]
    hint = f"did you mean {', '.join(similar[:3])}?" if similar else "mlxk2 list --all shows what is there"
    if os.path.isdir(spec.name):
        hint = f"for the folder write ./{spec.name}"
    return ModelNotFound(f"model '{spec.name}' is not in the cache", hint=hint)
