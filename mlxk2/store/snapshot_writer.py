"""Put a revision into the cache as the hub client lays it out: links to blobs, and the ref that names it.

Called when every blob is there and right, so a revision is complete or absent. Writes nothing outside the model's folder.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from mlxk2.aside import name_aside, written_aside
from mlxk2.errors import PermissionDenied
from mlxk2.store.layout import PARTIAL_FOLDER, repo_folder
from mlxk2.text import one_line

_LEFT_OVER = (".partial", ".incomplete", ".tmp", ".mlxk2")
_NO_LINKS_HERE = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


class RepoWriter:
    """One `models--…` folder, to be filled."""

    def __init__(self, hub: Path, name: str) -> None:
        self._name = name
        self.path = hub / repo_folder(name)
        self.blobs = self.path / "blobs"

    def prepare(self, ref: str | None) -> None:
        """Make the folders, and see whether everything can be put in its place, `ref` too. Raises: OSError, PermissionDenied."""
        for part in ("blobs", "snapshots", "refs"):
            self._refuse_link(self.path / part)
        self.blobs.mkdir(parents=True, exist_ok=True)
        if ref is not None:
            self._check_ref(ref)

    def blob(self, digest: str) -> Path:
        """Say where a file with this hash lies."""
        return self.blobs / digest

    def write_snapshot(self, commit: str, files: Iterable[tuple[str, str]], all_paths: Iterable[str]) -> Path:
        """Link each (path, digest) into the snapshot; what is right already stays as it is.

        `all_paths` are those that the revision has, whether they were chosen or not.

        Raises: OSError, PermissionDenied where a folder of the snapshot is a link to elsewhere.
        """
        root = self.path / "snapshots" / commit
        self._refuse_link(root)
        root.mkdir(parents=True, exist_ok=True)
        known = {root}
        for path, digest in files:
            place = root / path
            self._make_folder(place.parent, known)
            # Somebody may have removed the model meanwhile: no link to nothing.
            os.stat(self.blob(digest))
            _link(place, self.blob(digest))
        _sweep(root, {root / path for path in all_paths})
        return root

    def write_ref(self, revision: str, commit: str) -> None:
        """Let a branch or tag name the commit. Raises: OSError."""
        self._check_ref(revision)
        place = self.path / "refs" / revision
        place.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(place) as fresh:
            fresh.write_text(commit, encoding="ascii")

    def _check_ref(self, revision: str) -> None:
        """Refuse a name that lies below another one, as branches `dev` and `dev/x`: a file cannot be a folder."""
        place = self.path / "refs" / revision
        above = [folder for folder in place.parents if self.path / "refs" in folder.parents]
        for folder in above:
            self._refuse_link(folder)
        if place.is_dir() or any(folder.is_file() for folder in above):
            raise PermissionDenied(
                f"the cache has another revision in the place of '{one_line(revision)}'",
                hint=f"fetch it by its commit: mlxk2 pull {self._name}@COMMIT",
            )

    def note_partial(self, commit: str, *, is_partial: bool) -> None:
        """Note that a revision lacks files that were left out on purpose, or that it lacks none. Raises: OSError."""
        note = self.path / PARTIAL_FOLDER / commit
        self._refuse_link(note.parent)
        if is_partial:
            note.parent.mkdir(exist_ok=True)
            note.touch()
            return
        note.unlink(missing_ok=True)
        with suppress(OSError):
            note.parent.rmdir()

    def is_partial(self, commit: str) -> bool:
        """Tell whether a revision was fetched in part."""
        return (self.path / PARTIAL_FOLDER / commit).exists()

    def remove_if_empty(self) -> None:
        """Take away the folders that a failed download made and left empty."""
        for folder in (self.blobs, self.path):
            with suppress(OSError):
                folder.rmdir()

    def _make_folder(self, folder: Path, known: set[Path]) -> None:
        if folder in known:
            return
        self._make_folder(folder.parent, known)
        self._refuse_link(folder)
        if os.path.isfile(folder):
            folder.unlink()
        folder.mkdir(exist_ok=True)
        known.add(folder)

    def _refuse_link(self, folder: Path) -> None:
        if os.path.islink(folder):
            raise PermissionDenied(
                f"'{one_line(folder.name)}' of {self.path.name} is a link: what it leads to may lie outside the cache",
                hint="mlxk2 rm removes the model, and of a link the link only",
            )


def _link(place: Path, blob: Path) -> None:
    """Make `place` a relative link to its blob; where the file system has no links, a copy."""
    target = os.path.relpath(blob, place.parent)
    if os.path.islink(place) and os.readlink(place) == target:
        return
    fresh = name_aside(place)
    try:
        os.symlink(target, fresh)
    except OSError as error:
        if error.errno not in _NO_LINKS_HERE:
            raise
        shutil.copyfile(blob, fresh)
    if os.path.isdir(place) and not os.path.islink(place):
        shutil.rmtree(place)
    os.replace(fresh, place)


def _sweep(root: Path, wanted: set[Path]) -> None:
    """Remove the marks of broken downloads, which would make a complete model look broken."""
    for folder, _, names in os.walk(root):
        for name in names:
            place = Path(folder, name)
            if name.endswith(_LEFT_OVER) and place not in wanted:
                place.unlink()
