"""Files that take their place in one step: who looks there sees the earlier one or the new one, and never half of it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path


def name_aside(place: Path, ending: str = "") -> Path:
    """Choose a new name in the folder of `place`."""
    return place.with_name(f".{os.urandom(6).hex()}.mlxk2{ending}")


@contextmanager
def written_aside(place: Path, mode: int | None = None, ending: str = "") -> Iterator[Path]:
    """Give an empty file to fill, which takes its place when the block ends, and is gone when the block fails.

    It gets the permissions `mode`, else those of the file that it replaces. A link at `place` is replaced, not followed.

    Raises: OSError.
    """
    if mode is None:
        mode = _mode_of(place)
    fresh = name_aside(place, ending)
    with ExitStack() as undo:
        # Until it is whole, it is open to nobody whom the mode might leave out.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        os.close(os.open(fresh, flags, 0o666 if mode is None else 0o600))
        undo.callback(_forget, fresh)
        yield fresh
        if mode is not None:
            os.chmod(fresh, mode)
        os.replace(fresh, place)
        undo.pop_all()


def _forget(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _mode_of(place: Path) -> int | None:
    try:
        return stat.S_IMODE(os.stat(place).st_mode)
    except FileNotFoundError:
        return None
