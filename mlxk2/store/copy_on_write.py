"""Copy one file of the cache into a folder of the user's: sharing its blocks where the file system can, else byte by byte.

Knows no models. The source is opened for reading only and never followed through a link.
Source: clonefile(2) of macOS; ioctl_ficlone(2) of Linux.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Generator
from stat import S_ISREG
from typing import Callable, NamedTuple

from mlxk2.errors import CloneFailed
from mlxk2.store.snapshot_files import SourceFile
from mlxk2.text import one_line

CLONEFILE, REFLINK, COPY = "clonefile", "reflink", "copy"

_FICLONE = 0x40049409
_NO_OWNER_COPY = 2
_BUFFER_BYTES = 4 << 20
# What systems answer where blocks cannot be shared: other file system, other volume, no such call, not allowed.
_NOT_SHARED = frozenset(
    {
        errno.EOPNOTSUPP,
        errno.ENOTSUP,
        errno.EXDEV,
        errno.EINVAL,
        errno.ENOTTY,
        errno.ENOSYS,
        errno.EPERM,
        errno.EACCES,
        errno.EBADF,
        errno.ETXTBSY,
    }
)


class Copied(NamedTuple):
    """How a file was copied, and the hash of its content: what the Hub says, else what was read.

    `is_original` is False where what was read is not what the Hub's hash says.
    """

    method: str
    sha256: str
    is_original: bool = True


def copy_file(file: SourceFile, place: str, before_bytes: Callable[[], None]) -> Generator[int, None, Copied]:
    """Make `place`, which must not exist, a writable copy; yields how many bytes are done with since the last time.

    `before_bytes` is called when blocks cannot be shared, before the first byte is written.
    Raises: CloneFailed where the source cannot be read or is not what it was; OSError where `place` cannot be written.
    """
    source = _opened(file)
    try:
        method = _share_blocks(source, place)
        if method is None:
            before_bytes()
            return (yield from _copy_bytes(file, source, place))
        if file.sha256 is not None:
            yield file.size_bytes
            return Copied(method, file.sha256)
        read = yield from _copy_bytes(file, source, None)
        return read._replace(method=method)
    finally:
        os.close(source)


def _opened(file: SourceFile) -> int:
    try:
        source = os.open(file.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise _unreadable(file, error) from error
    state = os.fstat(source)
    if not S_ISREG(state.st_mode) or state.st_size != file.size_bytes:
        os.close(source)
        raise _changed(file)
    return source


def _share_blocks(source: int, place: str) -> str | None:
    """Try what this system has; None, and nothing at `place`, where it has nothing or the file system refuses."""
    try:
        if sys.platform == "darwin":
            return _clonefile(source, place)
        if sys.platform == "linux":
            return _reflink(source, place)
    except OSError as error:
        if error.errno not in _NOT_SHARED:
            raise
    return None


def _reflink(source: int, place: str) -> str:
    import fcntl

    target = _created(place)
    try:
        fcntl.ioctl(target, getattr(fcntl, "FICLONE", _FICLONE), source)
    except OSError:
        os.unlink(place)
        raise
    finally:
        os.close(target)
    return REFLINK


def _clonefile(source: int, place: str) -> str:
    import ctypes

    call = ctypes.CDLL(None, use_errno=True).fclonefileat
    call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)
    folder = os.open(os.path.dirname(place), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if call(source, folder, os.fsencode(os.path.basename(place)), _NO_OWNER_COPY) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        writable = (os.fstat(folder).st_mode & 0o666) | 0o600
    finally:
        os.close(folder)
    # A clone has its source's flags and permissions, and blobs may be read-only. The folder shows the umask.
    try:
        if sys.platform == "darwin":
            os.chflags(place, 0)
        os.chmod(place, writable)
    except OSError:
        os.unlink(place)
        raise
    return CLONEFILE


def _copy_bytes(file: SourceFile, source: int, place: str | None) -> Generator[int, None, Copied]:
    """Read the whole source, and write it unless `place` is None."""
    target = None if place is None else _created(place)
    try:
        return (yield from _stream(file, source, target))
    finally:
        if target is not None:
            os.close(target)


def _stream(file: SourceFile, source: int, target: int | None) -> Generator[int, None, Copied]:
    import hashlib

    hasher = hashlib.sha256()
    git = (
        None
        if file.digest is None or file.sha256
        else hashlib.sha1(b"blob %d\0" % file.size_bytes, usedforsecurity=False)
    )
    buffer = memoryview(bytearray(min(_BUFFER_BYTES, file.size_bytes + 1)))
    done = 0
    while True:
        count = _read(file, source, buffer)
        if not count or done + count > file.size_bytes:
            break
        hasher.update(buffer[:count])
        if git is not None:
            git.update(buffer[:count])
        if target is not None:
            _write(target, buffer[:count])
        done += count
        yield count
    if count or done != file.size_bytes:
        raise _changed(file)
    found = hasher.hexdigest() if git is None else git.hexdigest()
    return Copied(COPY, file.sha256 or hasher.hexdigest(), file.digest in (None, found))


def _read(file: SourceFile, source: int, buffer: memoryview) -> int:
    try:
        return os.readv(source, [buffer])
    except OSError as error:
        raise _unreadable(file, error) from error


def _write(target: int, data: memoryview) -> None:
    while data:
        data = data[os.write(target, data) :]


def _created(place: str) -> int:
    return os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


def _unreadable(file: SourceFile, error: OSError) -> CloneFailed:
    return CloneFailed(f"'{one_line(file.name)}' cannot be read from the cache: {error.strerror}")


def _changed(file: SourceFile) -> CloneFailed:
    return CloneFailed(
        f"'{one_line(file.name)}' changed in the cache while it was being copied",
        hint="try again when nothing writes it",
    )
