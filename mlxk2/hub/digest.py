"""Hashes as the Hub names files by them: sha256 of large files, git's sha1 of small ones."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

from mlxk2.events import Progress
from mlxk2.hub.remote import RemoteFile

BUFFER_BYTES = 1 << 20


def hasher_of(file: RemoteFile) -> Any:
    """Return a hash object that ends as `file.digest` once it has seen the right content.

    Source: git hashes a small header with the length before the content.
    """
    if file.is_large:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % file.size_bytes, usedforsecurity=False)


def is_intact(place: Path, file: RemoteFile) -> Generator[Progress, None, bool]:
    """Hash what lies at `place`; reports the bytes of this one file as it goes. Raises: OSError."""
    hasher, done = hasher_of(file), 0
    buffer = memoryview(bytearray(BUFFER_BYTES))
    handle = os.open(place, os.O_RDONLY | os.O_NONBLOCK)
    with open(handle, "rb", buffering=0) as stream:
        while True:
            count = stream.readinto(buffer)
            if not count:
                break
            hasher.update(buffer[:count])
            done += count
            yield Progress(min(done, file.size_bytes), file.size_bytes, "bytes", file.path)
    return bool(hasher.hexdigest() == file.digest)
