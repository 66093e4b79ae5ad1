"""The Hugging Face cache on disk: which repositories and snapshots it holds, and which snapshot counts.

Tolerant: a stray or unreadable entry is skipped or comes back as a value that says so. Knows no file formats.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mlxk2.errors import PermissionDenied
from mlxk2.store.layout import LOCKS_FOLDER, SENTINEL_NAME, is_commit, repo_folder, repo_name
from mlxk2.store.model_ref import CACHE, ModelRef

NO_SNAPSHOTS = "No snapshots found"
NO_PATH = "Model path does not exist"


def hash_not_found(revision: str) -> str:
    """The folder state of a revision that is not there."""
    return f"Specific hash {revision} not found"


class CachedRepo(NamedTuple):
    """One `models--…` folder. `path` is absolute or as the cache was given; it may not be a folder at all."""

    name: str
    path: str

    def snapshots(self) -> tuple[str, ...]:
        """Names of the snapshot folders, newest first."""
        dated = []
        folder = os.path.join(self.path, "snapshots")
        # At the end of a link may lie anything; only what is named like a revision is one.
        linked = os.path.islink(folder)
        for entry in _scan(folder):
            try:
                if entry.is_dir(follow_symlinks=False) and (is_commit(entry.name) or not linked):
                    dated.append((entry.stat(follow_symlinks=False).st_mtime, entry.name))
            except OSError:
                continue
        return tuple(name for _, name in sorted(dated, reverse=True))

    def ref(self, name: str) -> str | None:
        """The commit that a branch or tag points to, or None."""
        return _read_ref(os.path.join(self.path, "refs", *name.split("/")))

    def snapshot_path(self, snapshot: str) -> str:
        return os.path.join(self.path, "snapshots", snapshot)

    def default_snapshot(self) -> str | None:
        """Choose the snapshot that counts: refs/main, else the newest complete one, else the newest."""
        main = self.ref("main")
        if main is not None and _is_folder(self.snapshot_path(main)):
            return main
        names = self.snapshots()
        complete = (name for name in names if _is_complete(self.snapshot_path(name)))
        return next(complete, names[0] if names else None)

    def to_ref(self, snapshot: str | None) -> ModelRef:
        """Make the reference that the layers above work with; without a snapshot it says what is missing."""
        if snapshot is None:
            problem = NO_SNAPSHOTS if os.path.isdir(self.path) else NO_PATH
            return ModelRef(self.name, Path(self.path), None, CACHE, problem)
        revision = snapshot if is_commit(snapshot) else None
        return ModelRef(self.name, Path(self.snapshot_path(snapshot)), revision, CACHE)


def scan(hub: Path) -> tuple[CachedRepo, ...]:
    """List the models in a hub folder, sorted by name; the test sentinel is no model. A missing hub is empty.

    Raises: PermissionDenied where there is a hub that cannot be listed: that is not the same as an empty one.
    """
    found = []
    for entry in _scan_hub(hub):
        name = repo_name(entry.name)
        if name is not None and name != SENTINEL_NAME:
            found.append(CachedRepo(name, entry.path))
    return tuple(sorted(found, key=lambda repo: repo.name))


def has_sentinel(hub: Path) -> bool:
    """Tell whether this is a cache that tests may delete from."""
    return os.path.isdir(os.path.join(hub, repo_folder(SENTINEL_NAME)))


def lock_files(hub: Path, repo: CachedRepo) -> tuple[str, ...]:
    """Paths of the lock files that belong to exactly this model."""
    locks = os.path.join(hub, LOCKS_FOLDER)
    folder = os.path.join(locks, os.path.basename(repo.path))
    if os.path.islink(locks) or os.path.islink(folder):
        return ()
    return tuple(sorted(entry.path for entry in _scan(folder) if entry.name.endswith(".lock")))


def _scan_hub(hub: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(hub) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise PermissionDenied(
            f"the model cache cannot be read: {error.strerror}", hint="ls -ld shows who may"
        ) from error


def _scan(path: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            yield from entries
    except OSError:
        return


def _read_ref(path: str) -> str | None:
    """Read a ref file; its text is untrusted and must be a plain folder name."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            text = os.read(handle, 256)
        finally:
            os.close(handle)
    except (OSError, ValueError):
        return None
    commit = text.strip().decode("ascii", "replace")
    return commit if commit.isalnum() else None


def _is_folder(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def _is_complete(path: str) -> bool:
    """A snapshot is complete when it holds a file and none of its links dangles."""
    count = 0
    for entry in _scan(path):
        if not os.path.exists(entry.path):
            return False
        count += 1
    return count > 0
