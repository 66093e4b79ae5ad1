"""Integrity: every row of the contract's table, in its order and its words, on models as they lie in the cache."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support import cache_builder as build
from support.call import call
from support.isolation import IsolatedCache

NAME = "org/model"
SHARD_1, SHARD_2, SHARD_3 = (build.shard_name(n, 3) for n in (1, 2, 3))
INDEX = "model.safetensors.index.json"
Break = Callable[[Path], object]


def health(cache: IsolatedCache, *flags: str) -> dict[str, object]:
    """The one model's entry in the answer of `health`."""
    data = call("health", NAME, "--json", *flags, env=cache.env).data
    (entry,) = data["healthy"] + data["unhealthy"]
    return dict(entry)


def plant(cache: IsolatedCache, files: dict[str, bytes]) -> Path:
    return build.Repo(cache.hub, NAME).snapshot(files)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (build.chat_model(), "Model is healthy"),
        (build.sharded_model(), "Multi-file model complete"),
        (build.embedding_model(), "Model is healthy"),
        (build.gguf_model(), "Model is healthy"),
        (build.pytorch_model(), "Model is healthy"),
    ],
    ids=["single", "sharded", "embedding", "gguf", "pytorch"],
)
def test_sound_models_are_healthy(files: dict[str, bytes], reason: str, isolated_cache: IsolatedCache) -> None:
    plant(isolated_cache, files)
    entry = health(isolated_cache, "--deep")
    assert (entry["status"], entry["reason"], entry["findings"]) == ("healthy", reason, [])


def write(name: str, content: bytes) -> Break:
    return lambda folder: build.replace(folder / name, content)


def remove(*names: str) -> Break:
    return lambda folder: [(folder / name).unlink() for name in names]


def cut(name: str, size: int) -> Break:
    return lambda folder: build.truncate(folder / name, size)


def rename_shards(total_of_last: int) -> Break:
    def act(folder: Path) -> None:
        (folder / INDEX).unlink()
        (folder / SHARD_3).rename(folder / build.shard_name(3, total_of_last))

    return act


SHARDED_FAULTS = [
    (remove("config.json"), "config_missing", "config.json missing"),
    (write("config.json", b""), "config_invalid_json", "config.json is empty or invalid"),
    (write("config.json", b"[1]"), "config_invalid_json", "config.json is empty or invalid"),
    (write("config.json", b"{oops"), "config_invalid_json", "config.json contains invalid JSON"),
    (write("config.json", b'{"a": "\xff"}'), "config_invalid_json", "config.json contains invalid JSON"),
    (write("config.json", b'{"a":' * 100_000), "config_invalid_json", "config.json contains invalid JSON"),
    (lambda f: build.dangle(f / "config.json"), "config_missing", "config.json missing"),
    (write(INDEX, b"{oops"), "index_parse_error", "Invalid index file"),
    (write(INDEX, b'{"weight_map": {}}'), "index_parse_error", "Empty or invalid weight_map in index"),
    (write(INDEX, b'{"weight_map": [1]}'), "index_parse_error", "Empty or invalid weight_map in index"),
    (remove(SHARD_1, SHARD_3), "index_missing_shard", f"Missing weight shards: {SHARD_1}, {SHARD_3}"),
    (lambda f: build.dangle(f / SHARD_2), "index_missing_shard", f"Missing weight shards: {SHARD_2}"),
    (lambda f: build.loop(f / SHARD_2), "index_missing_shard", f"Missing weight shards: {SHARD_2}"),
    (write(SHARD_2, b""), "empty_weight_file", f"Empty weight shards: {SHARD_2}"),
    (write(SHARD_2, build.lfs_pointer()), "lfs_pointer_detected", f"LFS pointers instead of files: {SHARD_2}"),
    (rename_shards(4), "index_missing_shard", "Inconsistent shard totals detected"),
    (remove(INDEX, SHARD_2), "index_missing_shard", "Missing shards by pattern: 2/3 present"),
    (remove(INDEX), "index_missing", "Safetensors index missing for sharded model"),
    (write("x.incomplete", b"x"), "partial_marker", "Partial download marker detected"),
    (write("vocab.txt", build.lfs_pointer()), "lfs_pointer_detected", "LFS pointers instead of files: vocab.txt"),
    (remove("tokenizer.json"), "tokenizer_missing", "Tokenizer files missing"),
]  # fmt: skip


@pytest.mark.parametrize(("fault", "code", "reason"), SHARDED_FAULTS)
def test_fault_is_found_and_named(fault: Break, code: str, reason: str, isolated_cache: IsolatedCache) -> None:
    fault(plant(isolated_cache, build.sharded_model()))
    entry = health(isolated_cache)
    assert (entry["status"], entry["reason"]) == ("unhealthy", reason)
    assert entry["findings"][0]["code"] == code  # type: ignore[index]


SINGLE_FAULTS = [
    (remove("model.safetensors"), "No model weights found"),
    (write("model.safetensors", b""), "Empty weight files: model.safetensors"),
    (write("model.safetensors", b"abc"), "Corrupt weight files: model.safetensors"),
    (write("model.safetensors", bytes(64)), "Corrupt weight files: model.safetensors"),
    (write("model.safetensors", build.raw_safetensors(b"{}", length=2**63)), "Corrupt weight files: model.safetensors"),
    (write("model.safetensors", build.raw_safetensors([1])), "Corrupt weight files: model.safetensors"),
    (
        write("model.safetensors", build.raw_safetensors({"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, bytes(8))),
        "Corrupt weight files: model.safetensors",
    ),
    (
        write("model.safetensors", build.raw_safetensors({"w": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, bytes(12))),
        "Corrupt weight files: model.safetensors",
    ),
    (
        write("model.safetensors", build.raw_safetensors({"w": {"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]}}, bytes(8))),
        "Corrupt weight files: model.safetensors",
    ),
    (
        write("model.safetensors", build.raw_safetensors({"w": {"dtype": "F32", "shape": [-2], "data_offsets": [8, 0]}}, bytes(8))),
        "Corrupt weight files: model.safetensors",
    ),
    (
        write("model.safetensors", build.raw_safetensors({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, bytes(9))),
        "Corrupt weight files: model.safetensors",
    ),
    (
        write("model.safetensors", build.raw_safetensors({"w": {"dtype": "F32", "shape": [2**63, 0], "data_offsets": [0, 0]}})),
        "Corrupt weight files: model.safetensors",
    ),
    (
        write("model.safetensors", build.raw_safetensors({"w": {"dtype": "??", "shape": [1] * 65, "data_offsets": [0, 4]}}, bytes(4))),
        "Corrupt weight files: model.safetensors",
    ),
    (
        write("model.safetensors", build.raw_safetensors({"w": {"dtype": "??", "shape": [], "data_offsets": [0, 2**64]}})),
        "Corrupt weight files: model.safetensors",
    ),
    (write("model.safetensors", build.lfs_pointer()), "LFS pointers instead of files: model.safetensors"),
]  # fmt: skip


@pytest.mark.parametrize(("fault", "reason"), SINGLE_FAULTS)
def test_fault_of_a_single_weight_file(fault: Break, reason: str, isolated_cache: IsolatedCache) -> None:
    fault(plant(isolated_cache, build.chat_model()))
    assert health(isolated_cache)["reason"] == reason


def test_a_shape_of_many_huge_numbers_costs_no_time(isolated_cache: IsolatedCache) -> None:
    header = {"w": {"dtype": "F32", "shape": [9 * 10**17] * 125_000, "data_offsets": [0, 4]}}
    snapshot = plant(isolated_cache, build.chat_model())
    build.replace(snapshot / "model.safetensors", build.raw_safetensors(header, bytes(4)))
    before = time.process_time()
    assert health(isolated_cache)["reason"] == "Corrupt weight files: model.safetensors"
    assert time.process_time() - before < 5


def test_truncated_file_is_told_with_both_lengths(isolated_cache: IsolatedCache) -> None:
    snapshot = plant(isolated_cache, build.chat_model())
    whole = (snapshot / "model.safetensors").stat().st_size
    build.truncate(snapshot / "model.safetensors", 1000)
    entry = health(isolated_cache)
    assert entry["reason"] == f"Truncated weight files: model.safetensors (1000 of {whole} bytes)"
    assert entry["findings"][0]["path"] == "model.safetensors"  # type: ignore[index]


def test_shard_name_that_leaves_the_folder_is_a_finding_and_never_opened(isolated_cache: IsolatedCache) -> None:
    snapshot = plant(isolated_cache, build.sharded_model())
    (snapshot.parent / "outside.safetensors").write_bytes(build.safetensors())
    names = {"a": "../outside.safetensors", "b": "/etc/passwd", "c": "x\0y", "d": SHARD_1}
    build.replace(snapshot / INDEX, build.as_json({"weight_map": names}))
    findings = health(isolated_cache)["findings"]
    message = "Missing weight shards: ../outside.safetensors, /etc/passwd, x\ufffdy"
    assert findings == [{"code": "index_unsafe_shard", "message": message, "path": INDEX}]


def test_dangling_link_is_named_even_where_another_reason_comes_first(isolated_cache: IsolatedCache) -> None:
    snapshot = plant(isolated_cache, build.sharded_model())
    build.dangle(snapshot / SHARD_2)
    found = {(f["code"], f["path"]) for f in health(isolated_cache)["findings"]}  # type: ignore[index,attr-defined]
    assert ("dangling_link", SHARD_2) in found


def test_index_of_pytorch_is_left_over_where_the_safetensors_are_complete(isolated_cache: IsolatedCache) -> None:
    left_over = build.as_json({"weight_map": {"w": build.shard_name(1, 2, "bin")}})
    plant(isolated_cache, {**build.chat_model(), "pytorch_model.bin.index.json": left_over})
    assert health(isolated_cache)["status"] == "healthy"
