"""The GGUF reader finds what a file holds, and survives every file that lies: a typed error that says what is wrong,
never a traceback, a hang or a large allocation."""

from __future__ import annotations

import os
import struct
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.gguf_builder import Tensor, TinyGguf, encode, gguf_bytes, tiny_gguf, tiny_gguf_bytes

from mlxk2.errors import InvalidSource, UnsupportedFormat
from mlxk2.inspection.gguf import GgufFile, read_gguf

SMALL = TinyGguf(layers=1, hidden=32, inner=32, heads=2, kv_heads=1)
SOUND = tiny_gguf_bytes(SMALL)


def read(path: Path, data: bytes) -> GgufFile:
    path.write_bytes(data)
    return read_gguf(path)


def header(keys: int, tensors: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def refuse(path: Path, data: bytes, words: str) -> None:
    with pytest.raises(InvalidSource, match=words):
        read(path, data)


@pytest.mark.parametrize("version", [2, 3])
def test_values_of_every_type_are_read(tmp_path: Path, version: int) -> None:
    pairs = {
        "u8": (0, "<B", 200), "i8": (1, "<b", -5), "u16": (2, "<H", 60000), "i16": (3, "<h", -300), "u32": (4, "<I", 4 * 10**9),
        "i32": (5, "<i", -7), "f32": (6, "<f", 0.5), "u64": (10, "<Q", 2**63), "i64": (11, "<q", -(2**62)), "f64": (12, "<d", 0.1),
    }  # fmt: skip
    body = b"".join(
        text(key.encode()) + struct.pack("<I", kind) + struct.pack(form, value)
        for key, (kind, form, value) in pairs.items()
    )
    nested = (
        text(b"nested")
        + struct.pack("<IIQ", 9, 9, 2)
        + struct.pack("<IQBB", 0, 2, 1, 2)
        + struct.pack("<IQ", 8, 1)
        + text(b"x")
    )
    more = (
        text(b"yes") + struct.pack("<IB", 7, 1) + text(b"name") + struct.pack("<I", 8) + text("höhe".encode()) + nested
    )
    found = read(tmp_path / "a.gguf", header(13, version=version) + body + more)
    assert found.version == version
    expected = {key: value for key, (_, _, value) in pairs.items()}
    assert found.metadata == {**expected, "yes": True, "name": "höhe", "nested": [[1, 2], ["x"]]}


def test_tensors_lie_where_their_data_lies(tmp_path: Path) -> None:
    tensors = [
        Tensor("a", (2, 32), "Q8_0", encode([float(i) for i in range(64)], "Q8_0")),
        Tensor("b", (3,), "F32", encode([1, 2, 3], "F32")),
    ]
    data = gguf_bytes({"general.architecture": "llama"}, tensors)
    found = read(tmp_path / "a.gguf", data).tensors
    assert [(t.name, t.shape, t.type, t.size_bytes) for t in found] == [
        ("a", (2, 32), "Q8_0", 68),
        ("b", (3,), "F32", 12),
    ]
    assert [data[t.offset : t.offset + t.size_bytes] for t in found] == [t.data for t in tensors]


def test_an_alignment_of_the_files_own_is_honoured(tmp_path: Path) -> None:
    tensors = [Tensor(name, (1,), "F32", encode([value], "F32")) for name, value in (("a", 1.0), ("b", 2.0))]
    data = gguf_bytes({"general.alignment": 64}, tensors, alignment=64)
    found = read(tmp_path / "a.gguf", data).tensors
    assert found[1].offset - found[0].offset == 64
    assert data[found[1].offset :][:4] == struct.pack("<f", 2.0)


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    end = max(t.offset + t.size_bytes for t in read(path, SOUND).tensors)
    cuts = {*range(0, 400), *range(400, end, 997), end - 1}
    for cut in sorted(cuts):
        path.write_bytes(SOUND[:cut])
        with pytest.raises(InvalidSource):
            read_gguf(path)


@pytest.mark.parametrize("claim", [2**63, 2**64 - 1, 2**40, 2**32])
def test_counts_beyond_the_file_allocate_nothing(tmp_path: Path, claim: int) -> None:
    array = text(b"k") + struct.pack("<I", 9)
    files = [
        b"GGUF" + struct.pack("<IQQ", 3, 0, claim),
        b"GGUF" + struct.pack("<IQQ", 3, claim, 0),
        header(1) + struct.pack("<Q", claim),
        header(1) + text(b"k") + struct.pack("<IQ", 8, claim),
        *(header(1) + array + struct.pack("<IQ", kind, claim) + bytes(64) for kind in (0, 7, 8, 9, 12)),
        header(0, 1) + struct.pack("<Q", claim),
    ]
    tracemalloc.start()
    try:
        for data in files:
            with pytest.raises(InvalidSource):
                read(tmp_path / "a.gguf", data)
        assert tracemalloc.get_traced_memory()[1] < 5 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", [0, 8, 9])
def test_counts_that_a_sparse_file_could_hold_are_refused_soon(tmp_path: Path, kind: int) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(header(1) + text(b"k") + struct.pack("<IIQ", 9, kind, 2**36))
    os.truncate(path, 2**40)
    with pytest.raises(InvalidSource, match="items"):
        counted(lambda: read_gguf(path), most=1000)


class TooManyCalls(Exception):
    pass


def counted(action: Callable[[], Any], most: int, kinds: tuple[str, ...] = ("call", "c_call")) -> Any:
    """Do it, and stop it when it has called more than `most` functions of these kinds: work is counted, not time."""
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in kinds
        if calls > most:
            raise TooManyCalls

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        return action()
    finally:
        sys.setprofile(before)


def one_tensor(name: bytes = b"t", dims: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    sizes = b"".join(struct.pack("<Q", size) for size in dims)
    return text(name) + struct.pack("<I", len(dims)) + sizes + struct.pack("<IQ", kind, offset)


@pytest.mark.parametrize(
    ("info", "words"),
    [
        (one_tensor(dims=()), "0 dimensions"),
        (one_tensor(dims=(1, 1, 1, 1, 1)), "5 dimensions"),
        (one_tensor(dims=(0, 4)), "shape"),
        (one_tensor(dims=(2**32, 2**32)), "shape"),
        (one_tensor(dims=(2**62,)), "ends at byte"),
        (one_tensor(dims=(33,), kind=2), "no multiple of 32"),
        (one_tensor(offset=1), "not aligned"),
        (one_tensor(offset=2**63), "ends at byte"),
        (one_tensor(offset=2**64 - 32), "ends at byte"),
        (one_tensor(name=b"\xff"), "UTF-8"),
    ],
)
def test_a_tensor_that_cannot_be_is_named(tmp_path: Path, info: bytes, words: str) -> None:
    refuse(tmp_path / "a.gguf", header(0, 1) + info + bytes(4096), words)


def test_overlapping_and_repeated_tensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    refuse(path, header(0, 2) + one_tensor(b"a") + one_tensor(b"b", offset=96) + bytes(4096), "'a' and 'b' overlap")
    refuse(path, header(0, 2) + one_tensor(b"a") + one_tensor(b"a", offset=128) + bytes(4096), "'a' stands there twice")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "GGUF"),
        (b"PK\x03\x04" + bytes(100), "GGUF"),
        (header(1) + text(b"k") + struct.pack("<I", 13) + bytes(99), "unknown value type 13"),
        (header(1) + text(b"k") + struct.pack("<IB", 7, 2) + bytes(99), "neither true nor false"),
        (header(1) + text(b"k\xff") + bytes(99), "UTF-8"),
        (header(2) + 2 * (text(b"k") + struct.pack("<IB", 0, 2)) + bytes(99), "twice"),
        (header(1) + text(b"k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 9 + bytes(99), "nested"),
        (header(1) + text(b"general.alignment") + struct.pack("<II", 4, 0) + bytes(99), "alignment"),
        (header(1) + text(b"general.alignment") + struct.pack("<II", 4, 48) + bytes(99), "alignment"),
        (header(1) + text(b"general.alignment") + struct.pack("<Iff", 6, float("nan"), 0) + bytes(99), "alignment"),
    ],
)
def test_a_damaged_header_is_named(tmp_path: Path, data: bytes, words: str) -> None:
    refuse(tmp_path / "a.gguf", data, words)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (header(0, version=1) + bytes(99), "version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (header(0, 1) + one_tensor(kind=99) + bytes(4096), "unknown type 99"),
    ],
)
def test_kinds_that_nobody_knows_are_refused_by_name(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "a.gguf").write_bytes(data)
    with pytest.raises(UnsupportedFormat, match=words):
        read_gguf(tmp_path / "a.gguf")


def test_folders_and_missing_files_are_no_crash(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(InvalidSource, match="cannot be read"):
            read_gguf(path)


def test_a_vocabulary_costs_few_calls_a_word(tmp_path: Path) -> None:
    words = [f"token{number}" for number in range(50_000)]
    path = tmp_path / "a.gguf"
    path.write_bytes(gguf_bytes({"tokens": words, "merges": words, "scores": [0.5] * 50_000}, []))
    # One for each of the 100 000 strings; a reader that goes through its general parts needs six.
    assert counted(lambda: read_gguf(path), most=300_000, kinds=("call",)).metadata["tokens"] == words
    with pytest.raises(TooManyCalls):
        counted(lambda: read_gguf(path), most=1000, kinds=("call",))


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    changes=st.lists(
        st.tuples(st.integers(0, len(SOUND) - 1), st.binary(min_size=1, max_size=9)), min_size=1, max_size=6
    ),
    keep=st.integers(0, len(SOUND)),
)
def test_no_mutation_does_more_than_raise_a_typed_error(
    tmp_path: Path, changes: list[tuple[int, bytes]], keep: int
) -> None:
    data = bytearray(SOUND)
    for place, patch in changes:
        # Half of the changes hit the header, where they hurt.
        place %= 3000
        data[place : place + len(patch)] = patch
    try:
        found = read(tmp_path / "a.gguf", bytes(data[: max(keep, len(SOUND) // 2)]))
    except (InvalidSource, UnsupportedFormat):
        return
    assert all(t.offset + t.size_bytes <= found.size_bytes for t in found.tensors)


def test_the_builder_writes_what_it_says(tmp_path: Path) -> None:
    found = read_gguf(tiny_gguf(tmp_path / "a.gguf", TinyGguf(kind="Q4_0", architecture="qwen2")))
    kinds = {t.type for t in found.tensors if len(t.shape) == 2}
    assert (found.metadata["general.architecture"], kinds) == ("qwen2", {"Q4_0"})
