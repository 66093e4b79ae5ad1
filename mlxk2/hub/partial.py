"""A file that is being downloaded: its bytes at their places, and a journal behind them that says which are there.

`blobs/<hash>.mlxk2.incomplete` is as long as the file plus its journal. Pieces are filled from several connections at
once; after each write the journal is told, so that a killed process loses nothing that it wrote.
Layout of the journal, little-endian: magic (8 bytes), file size (u64), piece size (u32), piece count (u32), then the
number of bytes present at the start of each piece (u32 each).
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

SUFFIX = ".mlxk2.incomplete"
# Up to here a file is one request and never half there.
SMALL_BYTES = 1 << 20
_MAGIC = b"MLXKPART"
_HEAD = struct.Struct("<8sQII")
_COUNT = struct.Struct("<I")
_MEBIBYTE = 1 << 20
_SMALLEST_PIECE = 8 * _MEBIBYTE
_LARGEST_PIECE = 64 * _MEBIBYTE


class PartialFile:
    """The bytes of one file so far. Writes to different pieces may come from different threads."""

    def __init__(self, path: Path, size_bytes: int, connections: int = 8) -> None:
        self.path = path
        self.size_bytes = size_bytes
        self._handle = _open(path)
        self.piece_bytes, self.present = self._journal(connections)

    @property
    def pieces(self) -> int:
        """How many pieces the file has."""
        return len(self.present)

    def span(self, piece: int) -> tuple[int, int]:
        """Return where a piece begins and ends."""
        start = piece * self.piece_bytes
        return start, min(start + self.piece_bytes, self.size_bytes)

    def missing(self, piece: int) -> tuple[int, int]:
        """Return the part of a piece that is still to come; empty (begin = end) for a full one."""
        start, end = self.span(piece)
        return start + self.present[piece], end

    @property
    def bytes_present(self) -> int:
        return sum(self.present)

    @property
    def frontier(self) -> int:
        """How many bytes are there without a gap from the start."""
        for piece, count in enumerate(self.present):
            start, end = self.span(piece)
            if start + count < end:
                return start + count
        return self.size_bytes

    def write(self, piece: int, data: bytes | memoryview) -> None:
        """Put `data` behind what a piece has, and note it. Raises: OSError."""
        present = self.present[piece]
        _write_all(self._handle, data, piece * self.piece_bytes + present)
        self._note(piece, present + len(data))

    def read(self, start: int, buffer: memoryview) -> int:
        """Fill `buffer` from `start`; returns how many bytes were there. Raises: OSError."""
        return os.preadv(self._handle, [buffer], start) if hasattr(os, "preadv") else self._read(start, buffer)

    def forget(self) -> None:
        """Begin anew: what is there is not what it should be. Raises: OSError."""
        for piece in range(self.pieces):
            self._note(piece, 0)

    def finish(self, place: Path) -> None:
        """Cut the journal off and give the file its final name. Raises: OSError."""
        os.ftruncate(self._handle, self.size_bytes)
        self.close()
        os.replace(self.path, place)

    def discard(self) -> None:
        """Remove the file: nothing of it can be trusted. Raises: OSError."""
        self.close()
        os.unlink(self.path)

    def close(self) -> None:
        """Close the file; what was written stays for the next time."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _read(self, start: int, buffer: memoryview) -> int:
        data = os.pread(self._handle, len(buffer), start)
        buffer[: len(data)] = data
        return len(data)

    def _note(self, piece: int, count: int) -> None:
        """Tell the journal, and only then everybody else: who sees the file full may finish it at once."""
        place = self.size_bytes + _HEAD.size + piece * _COUNT.size
        _write_all(self._handle, _COUNT.pack(count), place)
        self.present[piece] = count

    def _journal(self, connections: int) -> tuple[int, list[int]]:
        """Take an earlier journal over, or begin one."""
        found = _read_journal(self._handle, self.size_bytes)
        if found is None:
            os.ftruncate(self._handle, 0)
            piece_bytes = _piece_bytes(self.size_bytes, connections)
            found = piece_bytes, [0] * len(_full(self.size_bytes, piece_bytes))
        piece_bytes, present = found
        head = _HEAD.pack(_MAGIC, self.size_bytes, piece_bytes, len(present))
        counts = b"".join(map(_COUNT.pack, present))
        _write_all(self._handle, head + counts, self.size_bytes)
        return piece_bytes, present


def partial_path(blob: Path) -> Path:
    """Say where the bytes of a blob lie until they are all there."""
    return blob.with_name(blob.name + SUFFIX)


def bytes_present(path: Path, size_bytes: int) -> int:
    """Return how many bytes an earlier download left at `path`; 0 without one. Changes nothing."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return 0
    try:
        found = _read_journal(handle, size_bytes)
    except OSError:
        return 0
    finally:
        os.close(handle)
    return 0 if found is None else sum(found[1])


def _read_journal(handle: int, size_bytes: int) -> tuple[int, list[int]] | None:
    """Return piece size and counts of an earlier download; None where there is none that can be believed."""
    if 0 < size_bytes == os.fstat(handle).st_size:
        # Killed between the last two steps of `finish`: all is there, and will be verified.
        piece_bytes = _piece_bytes(size_bytes, 1)
        return piece_bytes, _full(size_bytes, piece_bytes)
    raw = os.pread(handle, _HEAD.size, size_bytes)
    if len(raw) < _HEAD.size:
        return None
    magic, size, piece_bytes, count = _HEAD.unpack(raw)
    if magic != _MAGIC or size != size_bytes or not _MEBIBYTE <= piece_bytes <= _LARGEST_PIECE:
        return None
    most = _full(size, piece_bytes)
    if count != len(most):
        return None
    counts = os.pread(handle, count * _COUNT.size, size + _HEAD.size)
    if len(counts) < count * _COUNT.size:
        return None
    present = [number for (number,) in _COUNT.iter_unpack(counts)]
    return (piece_bytes, present) if all(have <= limit for have, limit in zip(present, most)) else None


def _piece_bytes(size_bytes: int, connections: int) -> int:
    """Choose pieces so that each connection gets several, of whole MiB."""
    wanted = -(-size_bytes // (connections * 4))
    return min(max(-(-wanted // _MEBIBYTE) * _MEBIBYTE, _SMALLEST_PIECE), _LARGEST_PIECE)


def _full(size_bytes: int, piece_bytes: int) -> list[int]:
    """The counts of a file of which everything is there."""
    count = max(-(-size_bytes // piece_bytes), 1)
    return [min(piece_bytes, size_bytes - piece * piece_bytes) for piece in range(count)]


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)


def _write_all(handle: int, data: bytes | memoryview, start: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(handle, view, start)
        view, start = view[count:], start + count
