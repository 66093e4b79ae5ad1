"""The header of one safetensors file: read, and held against the format and the file's length. Reads no tensor data."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from itertools import chain
from math import prod
from operator import itemgetter, mul, sub
from typing import Any, NamedTuple

MAX_HEADER_BYTES = 100_000_000
_FIRST_READ = 16 * 1024
_LENGTH_BYTES = 8

# Sizes and offsets are 64-bit numbers in every reader; without both limits a small header costs a minute of products.
_NUMBER_END = 2**63
_MOST_DIMENSIONS = 64

_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
}  # fmt: skip

_COLUMNS = itemgetter("dtype", "shape", "data_offsets")
_PACKED = frozenset({"U32", "I32", "U8"})


class HeaderError(Exception):
    """The file is not what its format demands."""


class CorruptHeader(HeaderError):
    """The header breaks the format."""


class TruncatedFile(HeaderError):
    """The file is shorter than its header says. Units: bytes; `at_least` where the header itself is cut."""

    def __init__(self, present: int, expected: int, at_least: bool = False) -> None:
        super().__init__(f"{present} of {'at least ' if at_least else ''}{expected} bytes")


class SafetensorsHeader(NamedTuple):
    """What a file says about itself.

    `tensors` maps a name to {"dtype", "shape", "data_offsets"}, already validated. Units: bytes; `elements` counts the
    stored numbers of all tensors, `may_be_packed` tells whether some of them could stand for several each.
    """

    tensors: Mapping[str, Mapping[str, Any]]
    metadata: Mapping[str, Any]
    data_bytes: int
    elements: int
    may_be_packed: bool


def read_header(path: str, file_size: int) -> SafetensorsHeader:
    """Read and check the header of the regular file at `path`.

    Raises: CorruptHeader, TruncatedFile, OSError.
    Source: the format's description in the safetensors repository (8-byte length, JSON, contiguous data).
    """
    raw = _read_json_bytes(path, file_size)
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError) as broken:
        raise CorruptHeader("the header is no JSON") from broken
    if not isinstance(header, dict):
        raise CorruptHeader("the header is no JSON object")
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict):
        raise CorruptHeader("the metadata is no JSON object")
    data_bytes, elements, may_be_packed = _measure(header)
    expected = _LENGTH_BYTES + len(raw) + data_bytes
    if file_size < expected:
        raise TruncatedFile(file_size, expected)
    if file_size > expected:
        raise CorruptHeader(f"{file_size - expected} bytes too many")
    return SafetensorsHeader(header, metadata, data_bytes, elements, may_be_packed)


def _read_json_bytes(path: str, file_size: int) -> bytes:
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        data = os.read(handle, _FIRST_READ)
        if len(data) < _LENGTH_BYTES:
            raise CorruptHeader("shorter than the length of a header")
        length = int.from_bytes(data[:_LENGTH_BYTES], "little")
        if not 2 <= length <= MAX_HEADER_BYTES or data[_LENGTH_BYTES : _LENGTH_BYTES + 1] not in {b"{", b""}:
            raise CorruptHeader("no header")
        end = _LENGTH_BYTES + length
        if end > file_size:
            raise TruncatedFile(file_size, end, at_least=True)
        while len(data) < end:
            more = os.read(handle, end - len(data))
            if not more:
                raise TruncatedFile(len(data), end, at_least=True)
            data += more
    finally:
        os.close(handle)
    return data[_LENGTH_BYTES:end]


def _measure(tensors: dict[str, Any]) -> tuple[int, int, bool]:
    """Check every tensor, and that their data lie end to end.

    Returns the data's length, the number of elements, and whether a tensor's type may hold packed weights.
    Works on whole columns: a cache of a thousand models holds hundreds of thousands of tensors.
    """
    if not tensors:
        return 0, 0, False
    try:
        dtypes, shapes, spans = zip(*map(_COLUMNS, tensors.values()))
        begins, ends = zip(*spans)
        kinds = set(dtypes)
        _check_numbers(shapes, begins, ends)
    except (KeyError, TypeError, ValueError) as broken:
        raise CorruptHeader("a tensor without dtype, shape or data_offsets") from broken
    counts = list(map(prod, shapes))
    if kinds <= _BITS.keys():
        wanted = map(mul, counts, map(_BITS.__getitem__, dtypes))
        if list(wanted) != [size * 8 for size in map(sub, ends, begins)]:
            raise CorruptHeader("a tensor's shape and its data differ in size")
    return _length(list(zip(begins, ends))), sum(counts), not _PACKED.isdisjoint(kinds)


def _check_numbers(shapes: tuple[Any, ...], begins: tuple[Any, ...], ends: tuple[Any, ...]) -> None:
    if set(map(type, shapes)) != {list} or max(map(len, shapes)) > _MOST_DIMENSIONS:
        raise CorruptHeader("a shape that is no list, or a very long one")
    sizes = list(chain.from_iterable(shapes))
    if not set(map(type, chain(sizes, begins, ends))) <= {int}:
        raise CorruptHeader("a shape or an offset that is no number")
    if sizes and (min(sizes) < 0 or max(sizes) >= _NUMBER_END):
        raise CorruptHeader("a size that is out of range")


def _length(spans: list[tuple[int, int]]) -> int:
    """Return where the last tensor ends. Raises: CorruptHeader for holes and overlaps."""
    spans.sort()
    position = 0
    for begin, end in spans:
        if begin != position or end < begin:
            raise CorruptHeader("holes or overlaps between tensors")
        position = end
    if position >= _NUMBER_END:
        raise CorruptHeader("an offset that is out of range")
    return position
