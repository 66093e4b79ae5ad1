"""The folder that a command makes: complete or absent. Built beside its place, moved into it when all is there.

Knows nothing of what goes into it.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mlxk2.errors import InsufficientSpace, InvalidTarget
from mlxk2.units import format_size

# Text files, and what a file system takes for itself.
_SPARE_BYTES = 16 * 2**20
# A volume with less is full: no weight fits any more.
_FULL_BYTES = 2**20
_FULL = (errno.ENOSPC, errno.EDQUOT)
_ANOTHER = "name a folder that does not exist yet"


@dataclass(frozen=True)
class Target:
    """A place that is free. `text`: as the user wrote it; `path`: absolute, without links; `above`: what exists of it."""

    text: str
    path: Path
    above: Path


def find_target(text: str, path: Path) -> Target:
    """Look at the place that the user named. Changes nothing.

    Raises: InvalidTarget unless it is missing or an empty folder, and can be made.
    """
    try:
        # A last component ".." or "link" must be understood before a sibling can be named.
        place = Path(os.path.realpath(path))
        with suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(place)
        if place.is_dir() and any(place.iterdir()):
            raise InvalidTarget(f"'{text}' is not empty", hint=_ANOTHER)
        if place.exists() and not place.is_dir():
            raise InvalidTarget(f"'{text}' is a file", hint=_ANOTHER)
        above = next(folder for folder in (place, *place.parents) if folder.exists())
    except OSError as error:
        raise InvalidTarget(f"'{text}' cannot be used: {error.strerror}", hint="choose another place") from error
    except ValueError as error:
        raise InvalidTarget(f"{text!r} is no path: {error}", hint=_ANOTHER) from error
    if place == place.parent or not above.is_dir():
        raise InvalidTarget(
            f"'{text}' cannot be made: '{above.name or above}' is no folder", hint="choose another place"
        )
    if not os.access(above, os.W_OK | os.X_OK):
        raise InvalidTarget(
            f"'{text}' cannot be made: '{above.name or above}' is not writable", hint="choose another place"
        )
    return Target(text, place, above)


def check_space(target: Target, needed_bytes: int) -> None:
    """Raise InsufficientSpace, with both figures, where so many bytes do not fit."""
    free = shutil.disk_usage(target.above).free
    if needed_bytes + _SPARE_BYTES > free:
        needed = format_size(needed_bytes + _SPARE_BYTES, " ")
        raise InsufficientSpace(
            f"the result needs {needed}, but only {format_size(free, ' ')} are free",
            hint="free some space, or choose a target on another volume",
            detail={"needed_bytes": needed_bytes + _SPARE_BYTES, "free_bytes": free},
        )


@contextmanager
def building(target: Target, needed_bytes: int) -> Iterator[Path]:
    """Give a folder to fill; at the end it becomes the target, after any failure nothing is left of it.

    Raises: InsufficientSpace where the volume turns out to be too small; InvalidTarget where somebody else took the place.
    """
    place = target.path
    above = place if _stays(place) else place.parent
    partial = above / f".{place.name[:50]}.partial-{secrets.token_hex(4)}"
    made: list[Path] = []
    with ExitStack() as undo:
        undo.callback(_remove, made)
        undo.callback(shutil.rmtree, partial, ignore_errors=True)
        try:
            make_missing(place.parent, made)
            partial.mkdir()
            yield partial
            _flush(partial)
            _move(partial, target)
        except (OSError, RuntimeError) as error:
            if not _is_full(error, partial, needed_bytes):
                raise
            raise InsufficientSpace(
                f"the volume of '{target.text}' is full", hint="free some space, or choose a target on another volume"
            ) from error
        undo.pop_all()


def _remove(made: list[Path]) -> None:
    for folder in reversed(made):
        with suppress(OSError):
            folder.rmdir()


def _is_full(error: OSError | RuntimeError, partial: Path, needed_bytes: int) -> bool:
    """Tell whether a lack of space was the reason, as long as what was written still takes it.

    MLX reports every failure to write as a RuntimeError, so the volume is asked.
    """
    if isinstance(error, OSError):
        return error.errno in _FULL
    try:
        missing = needed_bytes - sum(entry.stat().st_size for entry in os.scandir(partial))
        return shutil.disk_usage(partial).free < max(missing, _FULL_BYTES)
    except OSError:
        return False


def make_missing(folder: Path, made: list[Path]) -> None:
    """Make missing folders and note each, the outermost first."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        with suppress(FileExistsError):
            path.mkdir()
            made.append(path)


def _move(partial: Path, target: Target) -> None:
    if partial.parent == target.path:
        _move_up(partial, target)
        return
    try:
        if target.path.is_dir():
            os.chmod(partial, os.stat(target.path).st_mode & 0o7777)
        # An empty folder at the target is replaced in the same step; a filled one makes this fail.
        os.rename(partial, target.path)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise InvalidTarget(f"'{target.text}' was filled by somebody else meanwhile") from error
        raise
    _flush_folder(str(target.path.parent))


def _stays(place: Path) -> bool:
    """Whether an empty folder must be filled, and not be replaced by a full one.

    It is the one that the user is in (a shell would be nowhere), a volume of its own, or in a folder that is not ours.
    """
    try:
        is_here = place.is_dir() and os.path.samefile(place, os.curdir)
    except OSError:
        is_here = False
    return place.is_dir() and (is_here or os.path.ismount(place) or not os.access(place.parent, os.W_OK | os.X_OK))


def _move_up(partial: Path, target: Target) -> None:
    """Move what was built inside the target up into it, name by name; take all back if one fails."""
    if any(path != partial for path in target.path.iterdir()):
        raise InvalidTarget(f"'{target.text}' was filled by somebody else meanwhile")
    with ExitStack() as undo:
        for path in sorted(partial.iterdir()):
            os.rename(path, target.path / path.name)
            undo.callback(os.rename, target.path / path.name, path)
        partial.rmdir()
        undo.pop_all()
    _flush_folder(str(target.path))


def _flush(folder: Path) -> None:
    """Put every file on the disk before the folder gets its name, so that a crash leaves no torn model."""
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            _flush_path(os.path.join(place, name))
        _flush_folder(place)


def _flush_folder(folder: str) -> None:
    """Many network volumes cannot do this for folders; the files are safe without it."""
    with suppress(OSError):
        _flush_path(folder)


def _flush_path(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
