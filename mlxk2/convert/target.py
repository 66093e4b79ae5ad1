"""The folder that a conversion makes: complete or absent. Built beside its place, moved into it when all is there."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlxk2.errors import InsufficientSpace, InvalidTarget
from mlxk2.units import format_size

# Text files, and what a file system takes for itself.
_SPARE_BYTES = 16 * 2**20


def check_target(target_dir: Path, needed_bytes: int) -> Path:
    """Return the absolute target, or raise. Changes nothing.

    Raises: InvalidTarget unless it is missing or an empty folder; InsufficientSpace with both figures.
    """
    # A last component ".." or "link" must be understood before a sibling can be named.
    target = Path(os.path.realpath(target_dir.expanduser()))
    try:
        if target.is_dir() and any(target.iterdir()):
            raise InvalidTarget(f"'{target_dir}' is not empty", hint="name a folder that does not exist yet")
        if target.exists() and not target.is_dir():
            raise InvalidTarget(f"'{target_dir}' is a file", hint="name a folder that does not exist yet")
        above = next(folder for folder in target.parents if folder.exists())
    except (OSError, ValueError) as error:
        raise InvalidTarget(f"'{target_dir}' cannot be used: {error}") from error
    if target == target.parent or not above.is_dir():
        raise InvalidTarget(f"'{target_dir}' cannot be made: '{above}' is no folder", hint="choose another place")
    if not os.access(above, os.W_OK | os.X_OK):
        raise InvalidTarget(f"'{target_dir}' cannot be made: '{above}' is not writable", hint="choose another place")
    _check_space(above, needed_bytes)
    return target


@contextmanager
def building(target: Path) -> Iterator[Path]:
    """Give a folder to fill; at the end it becomes `target`, after any failure nothing is left of it."""
    made = _make_parents(target.parent)
    partial = target.parent / f".{target.name[:100]}.partial-{secrets.token_hex(4)}"
    try:
        partial.mkdir()
        yield partial
        _flush(partial)
        _move(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        for folder in made:
            _remove_if_empty(folder)
        raise


def _check_space(folder: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed_bytes + _SPARE_BYTES > free:
        needed = format_size(needed_bytes + _SPARE_BYTES, " ")
        raise InsufficientSpace(
            f"the result needs {needed}, but only {format_size(free, ' ')} are free",
            hint="free some space, or choose a target on another volume",
            detail={"needed_bytes": needed_bytes + _SPARE_BYTES, "free_bytes": free},
        )


def _make_parents(folder: Path) -> list[Path]:
    """Make missing folders; return them, the deepest first."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
    return missing


def _move(partial: Path, target: Path) -> None:
    try:
        # An empty folder at the target is replaced in the same step; a filled one makes this fail.
        os.rename(partial, target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise InvalidTarget(f"'{target}' was filled by somebody else meanwhile") from error
        raise
    _flush_path(target.parent)


def _flush(folder: Path) -> None:
    """Put every file on the disk before the folder gets its name, so that a crash leaves no torn model."""
    for entry in os.scandir(folder):
        if entry.is_file():
            _flush_path(Path(entry.path))
    _flush_path(folder)


def _flush_path(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return
