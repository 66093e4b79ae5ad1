"""One pull of a model at a time: a lock that the system takes back when its holder dies, whatever file stays behind."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mlxk2.events import Event, Warned
from mlxk2.store.layout import LOCKS_FOLDER, repo_folder
from mlxk2.store.target import make_missing

LOCK_NAME = "mlxk2-pull.lock"
_LOOK_AGAIN_S = 0.2


class PullLock:
    """The right to change one model of the cache. Taking it waits for whoever has it."""

    def __init__(self, hub: Path, name: str) -> None:
        self._hub = hub
        self._folder = hub / LOCKS_FOLDER / repo_folder(name)
        self._name = name
        self._handle: int | None = None
        self._made: list[Path] = []

    @property
    def path(self) -> Path:
        return self._folder / LOCK_NAME

    def take(self) -> Generator[Event, None, bool]:
        """Take the lock; returns whether somebody else had it before. Raises: OSError."""
        waited = False
        while not self.try_take():
            if not waited:
                yield Warned(f"another pull of {self._name} is running; waiting for it")
                waited = True
            time.sleep(_LOOK_AGAIN_S)
        return waited

    def release(self) -> None:
        """Give the lock back and take its file away, and the folders that were made for it, if they are empty."""
        if self._handle is None:
            return
        with suppress(OSError):
            os.unlink(self.path)
        os.close(self._handle)
        self._handle = None
        for folder in (self._folder, *reversed(self._made)):
            with suppress(OSError):
                folder.rmdir()

    def try_take(self) -> bool:
        """Take the lock if it is free now; tells whether. Raises: OSError."""
        if os.path.islink(self._folder.parent) or os.path.islink(self._folder):
            raise NotADirectoryError(errno.ENOTDIR, "the folder of locks is a link")
        make_missing(self._folder, self._made)
        try:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError:
            # The one who had it took the folder away meanwhile.
            return False
        try:
            if _locked(handle) and _is_same(handle, self.path):
                self._handle, handle = handle, -1
        finally:
            if handle >= 0:
                os.close(handle)
        return self._handle is not None


@contextmanager
def released(lock: PullLock) -> Iterator[None]:
    """Give the lock back at the end, however that comes."""
    try:
        yield
    finally:
        lock.release()


def is_left_over(path: str) -> bool:
    """Tell whether a lock file is one of ours that nobody holds: its process has died."""
    if os.path.basename(path) != LOCK_NAME:
        return False
    try:
        handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        return _locked(handle)
    except OSError:
        return False
    finally:
        os.close(handle)


def _locked(handle: int) -> bool:
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_same(handle: int, path: Path) -> bool:
    """Whether the locked file still has its name; its last holder may have taken it away in between."""
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    except OSError:
        return False
