"""Delete a model, or some of its revisions, from the hub folder. Links are removed, never followed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mlxk2.errors import PermissionDenied
from mlxk2.store import shared_blobs
from mlxk2.store.hf_cache import CachedRepo
from mlxk2.store.layout import PARTIAL_FOLDER


@dataclass(frozen=True)
class Deletion:
    """What will go. `paths` lie below `repo.path`; `whole` means the repository's folder itself.

    `shared` are payloads in the cache-wide blob store that nothing will refer to afterwards.
    """

    repo: CachedRepo
    snapshots: tuple[str, ...]
    whole: bool
    paths: tuple[str, ...]
    shared: tuple[str, ...]
    freed_bytes: int


def plan_deletion(hub: Path, repo: CachedRepo, snapshots: tuple[str, ...] | None) -> Deletion:
    """Find out what goes with `snapshots` (None: all); the last revision takes the folder along. Reads only.

    Units: `freed_bytes` counts each file once, and only where no other hard link keeps it.
    Raises: PermissionDenied where one revision is asked of a model whose folders are links: its files lie elsewhere.
    """
    present = repo.snapshots()
    doomed = present if snapshots is None else snapshots
    whole = set(doomed) >= set(present)
    if not whole:
        _refuse_links(repo)
    paths = (repo.path,) if whole else _paths_of(repo, doomed, tuple(s for s in present if s not in doomed))
    links = [path for path in _files_below(paths) if os.path.islink(path)]
    shared = shared_blobs.orphans_without(hub, links)
    size = _size_of(_files_below(paths)) + _size_of(shared)
    return Deletion(repo, doomed, whole, paths, shared, size)


def delete(hub: Path, plan: Deletion) -> None:
    """Carry out the plan. Raises: OSError naming the first path that could not be removed."""
    for path in plan.paths:
        _remove(path)
    for path in plan.shared:
        shared_blobs.sweep(hub, path)


def clean_locks(hub: Path, locks: Iterable[str]) -> int:
    """Remove lock files, and their folder if it is empty then; returns how many went."""
    count = 0
    folder = None
    for path in locks:
        folder = os.path.dirname(path)
        try:
            os.unlink(path)
        except FileNotFoundError:
            continue
        count += 1
    if folder is not None and not os.listdir(folder):
        os.rmdir(folder)
    return count


def _refuse_links(repo: CachedRepo) -> None:
    for part in ("", "snapshots", "blobs", "refs", ".no_exist", "trees"):
        if os.path.islink(os.path.join(repo.path, part) if part else repo.path):
            raise PermissionDenied(
                f"'{part or os.path.basename(repo.path)}' of {repo.name} is a link: its revisions lie outside the cache",
                hint=f"mlxk2 rm {repo.name} removes the whole model, and of a link the link only",
            )


def _paths_of(repo: CachedRepo, doomed: tuple[str, ...], kept: tuple[str, ...]) -> tuple[str, ...]:
    """Everything that only the doomed snapshots use: their folders, refs to them, blobs of theirs alone."""
    join = os.path.join
    paths = [repo.snapshot_path(name) for name in doomed]
    paths += [path for path in _regular_files(join(repo.path, "refs")) if _first_line(path) in doomed]
    for name in doomed:
        paths += [join(repo.path, ".no_exist", name), join(repo.path, "trees", f"{name}.json")]
        paths.append(join(repo.path, PARTIAL_FOLDER, name))
    used = {blob for name in doomed for blob in _blobs_of(repo, name)}
    paths += sorted(used - {blob for name in kept for blob in _blobs_of(repo, name)})
    return tuple(path for path in paths if os.path.lexists(path))


def _blobs_of(repo: CachedRepo, snapshot: str) -> set[str]:
    """The blobs of this repository that a snapshot's links lead to; a link to elsewhere is none of them."""
    blobs = os.path.join(repo.path, "blobs")
    found = set()
    for path in _files_below([repo.snapshot_path(snapshot)]):
        if os.path.islink(path):
            target = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path)))
            if os.path.dirname(target) == os.path.normpath(blobs):
                found.add(os.path.join(blobs, os.path.basename(target)))
    return found


def _files_below(paths: Iterable[str]) -> list[str]:
    """Every file and link at or below `paths`; links to folders are listed, not entered."""
    found = []
    for path in paths:
        if os.path.islink(path) or not os.path.isdir(path):
            found.append(path)
            continue
        for folder, folders, files in os.walk(path):
            found += [os.path.join(folder, name) for name in files]
            found += [p for p in (os.path.join(folder, name) for name in folders) if os.path.islink(p)]
    return found


def _regular_files(path: str) -> list[str]:
    return [found for found in _files_below([path]) if os.path.isfile(found) and not os.path.islink(found)]


def _size_of(paths: Iterable[str]) -> int:
    sizes: dict[tuple[int, int], int] = {}
    links: dict[tuple[int, int], int] = {}
    for path in paths:
        try:
            status = os.lstat(path)
        except OSError:
            continue
        identity = (status.st_dev, status.st_ino)
        sizes[identity] = _on_disk(path, status) if not os.path.islink(path) else 0
        links[identity] = links.get(identity, status.st_nlink) - 1
    return sum(size for identity, size in sizes.items() if links[identity] <= 0)


def _on_disk(path: str, status: os.stat_result) -> int:
    """The length of a file; of one that is half downloaded, what of it takes space."""
    return min(status.st_size, status.st_blocks * 512) if path.endswith(".incomplete") else status.st_size


def _first_line(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(256).strip()
    except OSError:
        return ""


def _remove(path: str) -> None:
    if os.path.islink(path) or not os.path.isdir(path):
        os.unlink(path)
    else:
        from shutil import rmtree

        rmtree(path)
