"""Tolerance: whatever one model's folder holds, `list` and `health` answer, and the sound model beside it is untouched."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support import cache_builder as build
from support.call import call
from support.isolation import IsolatedCache, above_permissions

GOOD, BAD = "mlx-community/good", "org/bad"


def huge_config(folder: Path) -> None:
    build.grow_sparse(folder / "config.json", 200 * 2**20)


def outward_link(folder: Path) -> None:
    (folder / "loop").symlink_to(folder)


def undecodable_name(folder: Path) -> None:
    (folder / os.fsdecode(b"bad\xff\n.partial")).write_bytes(b"x")


FAULTS: list[tuple[Callable[[Path], object], str | None]] = [
    (huge_config, "config.json is empty or invalid"),
    (lambda f: build.fifo(f / "config.json"), "config.json missing"),
    (lambda f: build.folder_instead(f / "config.json"), "config.json missing"),
    (lambda f: build.loop(f / "config.json"), "config.json missing"),
    (lambda f: build.fifo(f / "model.safetensors"), "No model weights found"),
    (lambda f: build.folder_instead(f / "model.safetensors"), "No model weights found"),
    (lambda f: build.fifo(f / "README.md"), "Not regular files: README.md"),
    (lambda f: build.fifo(f / "tokenizer_config.json"), "Not regular files: tokenizer_config.json"),
    (lambda f: build.replace(f / "README.md", b"---\n" + b"\xff\x00" * 9000), None),
    (lambda f: build.replace(f / "config.json", b'{"n": ' + b"9" * 10_000 + b"}"), "config.json contains invalid JSON"),
    (undecodable_name, "Partial download marker detected"),
    (outward_link, None),
]


@pytest.mark.parametrize(("fault", "reason"), FAULTS)
def test_one_bad_model_never_hides_another(
    fault: Callable[[Path], object], reason: str | None, isolated_cache: IsolatedCache
) -> None:
    build.Repo(isolated_cache.hub, GOOD).snapshot(build.chat_model())
    fault(build.Repo(isolated_cache.hub, BAD).snapshot(build.chat_model()))
    good, bad = call("list", "--json", env=isolated_cache.env).data["models"]
    assert (good["name"], good["health"]) == (GOOD, "healthy")
    assert bad["health"] == ("healthy" if reason is None else "unhealthy")
    if reason is not None:
        assert bad["reason"] == reason
    assert call("health", "--json", "--deep", env=isolated_cache.env).data["summary"]["total"] == 2


@pytest.mark.parametrize(
    "config",
    [
        {"max_position_embeddings": True},
        {"max_position_embeddings": -5},
        {"max_position_embeddings": 1e400},
        {"max_position_embeddings": "many"},
        {"max_position_embeddings": 10**30},
        {"max_position_embeddings": [1]},
        {"model_type": ["llama"]},
        {"model_type": {"a": 1}},
        {"model_type": "\ud800\n"},
        {"model_type": "../../etc"},
        {"architectures": {"a": 1}},
        {"quantization": "4bit"},
        {"quantization": {"bits": "4", "group_size": -1}},
        {"quantization": {"bits": 10**40, "group_size": 64, "mode": ["x"]}},
        {"text_config": 7, "num_hidden_layers": "2"},
        {"num_key_value_heads": [1, 2], "layer_types": [3, None]},
        {"hidden_size": 0, "num_attention_heads": 0, "torch_dtype": 5},
    ],
)
def test_nonsense_in_a_config_gives_a_valid_answer(config: dict[str, object], isolated_cache: IsolatedCache) -> None:
    files = build.chat_model(**{"max_position_embeddings": None, **config})
    build.Repo(isolated_cache.hub, BAD).snapshot(files)
    (model,) = call("list", "--json", env=isolated_cache.env).data["models"]
    assert model["context_length"] is None
    assert call("show", BAD, "--json", env=isolated_cache.env).code == 0


def test_folder_states_have_their_words(isolated_cache: IsolatedCache) -> None:
    (isolated_cache.hub / "models--org--no-snapshots").mkdir()
    (isolated_cache.hub / "models--org--a-file").write_bytes(b"x")
    build.Repo(isolated_cache.hub, "org/no-files").snapshot({})
    reasons = {m["name"]: m["reason"] for m in call("list", "--json", env=isolated_cache.env).data["models"]}
    assert reasons == {
        "org/a-file": "Model path does not exist",
        "org/no-files": "config.json missing",
        "org/no-snapshots": "No snapshots found",
    }


def test_folders_at_the_end_of_a_link_are_revisions_only_by_their_names(
    isolated_cache: IsolatedCache, tmp_path: Path
) -> None:
    moved = build.Repo(isolated_cache.hub, GOOD).snapshot(build.chat_model()).parent
    other = build.Repo(isolated_cache.hub, BAD).snapshot(build.chat_model()).parent
    moved.rename(tmp_path / "moved")
    moved.symlink_to(tmp_path / "moved")
    other.rename(tmp_path / "other")
    other.symlink_to(tmp_path)
    good, bad = call("list", "--json", env=isolated_cache.env).data["models"]
    assert (good["name"], good["hash"]) == (GOOD, next((tmp_path / "moved").iterdir()).name)
    assert (bad["name"], bad["reason"], bad["size_bytes"]) == (BAD, "No snapshots found", 0)


@pytest.mark.skipif(above_permissions(), reason="root may read everything")
def test_unreadable_folder_is_unhealthy(isolated_cache: IsolatedCache) -> None:
    snapshot = build.Repo(isolated_cache.hub, BAD).snapshot(build.chat_model())
    snapshot.chmod(0)
    try:
        (model,) = call("list", "--json", env=isolated_cache.env).data["models"]
    finally:
        snapshot.chmod(0o755)
    assert (model["health"], model["reason"]) == ("unhealthy", "Model folder cannot be read")


def test_a_blob_that_two_names_share_counts_once(isolated_cache: IsolatedCache) -> None:
    files = build.chat_model()
    build.Repo(isolated_cache.hub, GOOD).snapshot({**files, "copy.safetensors": files["model.safetensors"]})
    (model,) = call("list", "--json", env=isolated_cache.env).data["models"]
    assert model["size_bytes"] == sum(map(len, files.values()))
