"""Whatever stands in a GGUF's metadata and headers, `convert` ends with one valid answer and leaves all or nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.call import call
from support.gguf_builder import TinyGguf, gguf_bytes, metadata_of, tensors_of

pytestmark = pytest.mark.mlx_real

BASE = {
    kind: TinyGguf(tokenizer=kind, pre="llama-bpe", layers=1, hidden=32, inner=32, heads=2, kv_heads=1, kind="Q4_0")
    for kind in ("gpt2", "llama")
}
TEXTS = st.sampled_from(
    ["", " ", ":", "$A", "a\0b", "\ufffd", "▁▁", "<|bos|>:1", "<0x41>", "<unk>", "\n---\n", "€" * 50]
)
NUMBERS = st.sampled_from([0, -1, 1, 3, 2**31 - 1])
FLOATS = st.sampled_from([0.0, -1.0, 0.5, 1e30, float("nan"), float("inf")])
VALUES = st.one_of(
    TEXTS,
    NUMBERS,
    FLOATS,
    st.booleans(),
    st.lists(TEXTS, max_size=3),
    st.lists(NUMBERS, max_size=3),
    st.lists(FLOATS, max_size=3),
)


def damaged(metadata: dict[str, Any], key: str, place: int, value: Any) -> dict[str, Any]:
    """Put `value` in the place of a metadata value, or of one item of a list."""
    old = metadata[key]
    if isinstance(old, list) and old and type(value) is type(old[0]):
        place %= len(old)
        return {**metadata, key: [*old[:place], value, *old[place + 1 :]]}
    return {**metadata, key: value}


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(kind=st.sampled_from(sorted(BASE)), data=st.data())
def test_damaged_metadata_end_in_one_answer(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    metadata = metadata_of(BASE[kind])
    for _ in range(data.draw(st.integers(1, 2))):
        key = data.draw(st.sampled_from(sorted(metadata)))
        metadata = damaged(metadata, key, data.draw(st.integers(0, 400)), data.draw(VALUES))
    convert(tmp_path, gguf_bytes(metadata, tensors_of(BASE[kind])))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data(), place=st.integers(0, 12_000), patch=st.binary(min_size=1, max_size=9))
def test_damaged_bytes_end_in_one_answer(tmp_path: Path, data: st.DataObject, place: int, patch: bytes) -> None:
    sound = gguf_bytes(metadata_of(BASE["gpt2"]), tensors_of(BASE["gpt2"]))
    place %= len(sound)
    convert(tmp_path, sound[:place] + patch + sound[place + len(patch) :])


def convert(folder: Path, content: bytes) -> None:
    """Convert; the answer is checked by `call`, the rest here."""
    (folder / "m.gguf").write_bytes(content)
    result = call("convert", str(folder / "m.gguf"), str(folder / "out"), "--json")
    assert result.code in (0, 1)
    assert result.code == 0 or result.error["type"] != "InternalError", result.stdout
    assert sorted(os.listdir(folder)) == (["m.gguf", "out"] if result.code == 0 else ["m.gguf"])
    if result.code == 0:
        assert call("health", str(folder / "out"), "--json").data["summary"]["healthy_count"] == 1
        shutil.rmtree(folder / "out")
