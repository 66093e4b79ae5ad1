"""Headers of GGUF files: metadata and where each tensor lies, every number checked against the file's size.

A GGUF is untrusted input: nothing is allocated on the word of a count, and no tensor data is read here.
Source: ggml/docs/gguf.md (versions 2 and 3, little endian), ggml.h for the tensor types.
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from mlxk2.errors import InvalidSource, UnsupportedFormat
from mlxk2.inspection.gguf_types import MAGIC, TENSOR_TYPES

MAX_HEADER_BYTES = 256 * 2**20
MAX_KEYS = 65_536
MAX_TENSORS = 262_144
MAX_ITEMS = 2**23
MAX_ARRAY_DEPTH = 3
MAX_NAME_BYTES = 65_535
MAX_DIMS = 4
MAX_ALIGNMENT = 65_536
_FIRST_READ = 2**20
_LARGEST = 2**63 - 1

# Value types 0 to 6 are u8 i8 u16 i16 u32 i32 f32; 10 to 12 are u64 i64 f64.
_SCALARS = {code: struct.Struct(f"<{letter}") for code, letter in enumerate("BbHhIif")}
_SCALARS.update({10: struct.Struct("<Q"), 11: struct.Struct("<q"), 12: struct.Struct("<d")})
_BOOL, _STRING, _ARRAY = 7, 8, 9
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


@dataclass(frozen=True)
class GgufTensor:
    """One tensor. Shape: rows first, as arrays are written elsewhere (GGUF itself writes columns first).

    `offset` counts from the start of the file.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    size_bytes: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class GgufFile:
    """A header whose every tensor lies inside the file, aligned, apart from the others."""

    path: Path
    size_bytes: int
    version: int
    metadata: dict[str, Any]
    tensors: tuple[GgufTensor, ...]


def read_gguf(path: Path) -> GgufFile:
    """Read and check the header of `path`.

    Raises: InvalidSource naming what is wrong; UnsupportedFormat for versions and tensor types that nobody knows.
    """
    try:
        with open(path, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            return _read(_Cursor(stream, size, path.name), path)
    except OSError as error:
        raise InvalidSource(f"'{path.name}' cannot be read: {error.strerror or error}") from error


class _Cursor:
    """Reads forward through a header, in growing steps, never beyond the file or the header limit."""

    def __init__(self, stream: BinaryIO, size: int, name: str) -> None:
        self._stream = stream
        self._data = b""
        self._position = 0
        self._items = 0
        self._limit = min(size, MAX_HEADER_BYTES)
        self.size = size
        self.name = name

    @property
    def position(self) -> int:
        return self._position

    def broken(self, what: str) -> InvalidSource:
        return InvalidSource(f"{self.name} is not a sound GGUF file: {what}", hint="download or export the file again")

    def need(self, count: int, what: str) -> int:
        """Make `count` bytes available, move past them and return where they begin."""
        start = self._position
        end = start + count
        if end > self._limit:
            where = f"the file ends at byte {self.size}" if end > self.size else "the header is larger than 256 MiB"
            raise self.broken(f"{what} at byte {start} needs {count} bytes, but {where}")
        if end > len(self._data):
            self._fill(end)
        self._position = end
        return start

    def _fill(self, end: int) -> None:
        wanted = min(self._limit, max(end, 2 * len(self._data), _FIRST_READ))
        self._data += self._stream.read(wanted - len(self._data))
        if len(self._data) < end:
            raise self.broken(f"the file ends at byte {len(self._data)}, while it was being read")

    def take(self, count: int, what: str) -> bytes:
        start = self.need(count, what)
        return self._data[start : start + count]

    def scalar(self, kind: struct.Struct, what: str) -> Any:
        start = self.need(kind.size, what)
        return kind.unpack_from(self._data, start)[0]

    def text(self, what: str, limit: int = MAX_HEADER_BYTES) -> str:
        count = self.scalar(_U64, what)
        if count > limit:
            raise self.broken(f"{what} claims {count} bytes")
        return self._decode(self.take(count, what), what)

    def _decode(self, raw: bytes, what: str) -> str:
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.broken(f"{what} is not UTF-8") from error

    def texts(self, count: int, what: str) -> list[str]:
        """Read `count` strings; the loop is the hot spot of a vocabulary, so it works on the buffer itself."""
        found: list[str] = []
        unpack, position, data = _U64.unpack_from, self._position, self._data
        for _ in range(count):
            end = position + 8
            if end <= len(data):
                end += unpack(data, position)[0]
            if end > len(data):
                self._position = position
                found.append(self.text(what))
                position, data = self._position, self._data
                continue
            found.append(self._decode(data[position + 8 : end], what))
            position = end
        self._position = position
        return found

    def count(self, item_bytes: int, what: str) -> int:
        """Read a count and refuse it unless that many items, at their smallest, can follow."""
        count: int = self.scalar(_U64, what)
        self._items += min(count, MAX_ITEMS + 1)
        if count * item_bytes > self._limit - self._position:
            raise self.broken(f"{what} claims {count} items, more than the file holds")
        if self._items > MAX_ITEMS:
            raise self.broken(f"{what} claims {count} items, more than any model has")
        return count

    def scalars(self, kind: struct.Struct, count: int, what: str) -> list[Any]:
        start = self.need(kind.size * count, what)
        return list(struct.unpack_from(f"<{count}{kind.format[-1]}", self._data, start))


def _read(cursor: _Cursor, path: Path) -> GgufFile:
    version = _version(cursor)
    tensor_count = cursor.scalar(_U64, "the tensor count")
    key_count = cursor.scalar(_U64, "the metadata count")
    if tensor_count > MAX_TENSORS:
        raise cursor.broken(f"it claims {tensor_count} tensors")
    if key_count > MAX_KEYS:
        raise cursor.broken(f"it claims {key_count} metadata entries")
    metadata: dict[str, Any] = {}
    for _ in range(key_count):
        key = cursor.text("a metadata key", MAX_NAME_BYTES)
        if key in metadata:
            raise cursor.broken(f"the metadata key '{key}' stands there twice")
        metadata[key] = _value(cursor, cursor.scalar(_U32, f"the type of '{key}'"), f"'{key}'", 0)
    infos = [_tensor_info(cursor) for _ in range(tensor_count)]
    alignment = _alignment(cursor, metadata)
    data_start = -(-cursor.position // alignment) * alignment
    tensors = tuple(_placed(cursor, info, data_start, alignment) for info in infos)
    _check_apart(cursor, tensors)
    return GgufFile(path, cursor.size, version, metadata, tensors)


def _version(cursor: _Cursor) -> int:
    if cursor.size < 24 or cursor.take(4, "the magic") != MAGIC:
        raise cursor.broken("it does not begin with 'GGUF' and a header")
    version: int = cursor.scalar(_U32, "the version")
    if version & 0xFFFF == 0:
        raise UnsupportedFormat(f"{cursor.name} is a big-endian GGUF file", hint="convert needs a little-endian one")
    if version not in (2, 3):
        raise UnsupportedFormat(
            f"{cursor.name} is GGUF version {version}", hint="versions 2 and 3 are known; export the model again"
        )
    return version


def _value(cursor: _Cursor, kind: int, what: str, depth: int) -> Any:
    if kind == _STRING:
        return cursor.text(what)
    if kind == _BOOL:
        return _boolean(cursor, cursor.take(1, what)[0], what)
    if kind == _ARRAY:
        return _array(cursor, what, depth + 1)
    return cursor.scalar(_scalar_kind(cursor, kind, what), what)


def _array(cursor: _Cursor, what: str, depth: int) -> list[Any]:
    if depth > MAX_ARRAY_DEPTH:
        raise cursor.broken(f"{what} is nested more than {MAX_ARRAY_DEPTH} deep")
    kind = cursor.scalar(_U32, f"the item type of {what}")
    if kind == _STRING:
        return cursor.texts(cursor.count(8, what), what)
    if kind == _BOOL:
        return [_boolean(cursor, byte, what) for byte in cursor.take(cursor.count(1, what), what)]
    if kind == _ARRAY:
        return [_array(cursor, what, depth + 1) for _ in range(cursor.count(12, what))]
    scalar = _scalar_kind(cursor, kind, what)
    return cursor.scalars(scalar, cursor.count(scalar.size, what), what)


def _scalar_kind(cursor: _Cursor, kind: int, what: str) -> struct.Struct:
    if kind not in _SCALARS:
        raise cursor.broken(f"{what} has the unknown value type {kind}")
    return _SCALARS[kind]


def _boolean(cursor: _Cursor, byte: int, what: str) -> bool:
    if byte > 1:
        raise cursor.broken(f"{what} is neither true nor false")
    return byte == 1


def _tensor_info(cursor: _Cursor) -> GgufTensor:
    """Read one entry of the tensor table; its offset still counts from the start of the data."""
    name = cursor.text("a tensor name", MAX_NAME_BYTES)
    what = f"tensor '{name}'"
    dims = cursor.scalar(_U32, what)
    if not 1 <= dims <= MAX_DIMS:
        raise cursor.broken(f"{what} has {dims} dimensions")
    columns_first = cursor.scalars(_U64, dims, what)
    code = cursor.scalar(_U32, f"the type of {what}")
    offset = cursor.scalar(_U64, f"the offset of {what}")
    if code not in TENSOR_TYPES:
        raise UnsupportedFormat(f"{what} of {cursor.name} has the unknown type {code}", hint="export it as Q8_0 or F16")
    known = TENSOR_TYPES[code]
    elements = math.prod(columns_first)
    if not 0 < elements <= _LARGEST:
        raise cursor.broken(f"{what} has the shape {columns_first}")
    if columns_first[0] % known.block:
        raise cursor.broken(f"{what} is {known.name}, but {columns_first[0]} is no multiple of {known.block}")
    size = elements // known.block * known.block_bytes
    return GgufTensor(name, tuple(reversed(columns_first)), known.name, offset, size)


def _alignment(cursor: _Cursor, metadata: dict[str, Any]) -> int:
    alignment = metadata.get("general.alignment", 32)
    is_number = isinstance(alignment, int) and not isinstance(alignment, bool)
    if not is_number or not 8 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise cursor.broken(f"general.alignment is {str(alignment)[:40]}")
    return int(alignment)


def _placed(cursor: _Cursor, info: GgufTensor, data_start: int, alignment: int) -> GgufTensor:
    if info.offset % alignment:
        raise cursor.broken(f"tensor '{info.name}' at offset {info.offset} is not aligned to {alignment}")
    offset = data_start + info.offset
    if offset + info.size_bytes > cursor.size:
        raise cursor.broken(
            f"tensor '{info.name}' ends at byte {offset + info.size_bytes}, the file at byte {cursor.size}"
        )
    return GgufTensor(info.name, info.shape, info.type, offset, info.size_bytes)


def _check_apart(cursor: _Cursor, tensors: tuple[GgufTensor, ...]) -> None:
    if len({t.name for t in tensors}) < len(tensors):
        names = sorted(t.name for t in tensors)
        twice = next(a for a, b in zip(names, names[1:]) if a == b)
        raise cursor.broken(f"tensor '{twice}' stands there twice")
    ordered = sorted(tensors, key=lambda tensor: tensor.offset)
    for before, after in zip(ordered, ordered[1:]):
        if before.offset + before.size_bytes > after.offset:
            raise cursor.broken(f"tensors '{before.name}' and '{after.name}' overlap")
