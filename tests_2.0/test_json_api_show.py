"""`show --json`: metadata, files, configuration, memory and path of one model, and its typed errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.call import Result, call
from support.isolation import IsolatedCache
from support.planting import COMMIT_A, plant, plant_tiny
from support.tiny_model import TinyOptions


@pytest.fixture
def tiny(isolated_cache: IsolatedCache) -> Path:
    """The snapshot of a sound model."""
    return plant_tiny(isolated_cache.hub, "org/tiny", TinyOptions(context_length=512))


def show(cache: IsolatedCache, *words: str) -> Result:
    return call("show", *words, "--json", env=cache.env)


def test_metadata_comes_from_the_config(isolated_cache: IsolatedCache, tiny: Path) -> None:
    config = json.loads((tiny / "config.json").read_text(encoding="utf-8"))
    data = show(isolated_cache, "tiny").data
    assert data["model"]["name"] == "org/tiny"
    for key in ("model_type", "vocab_size", "hidden_size", "num_attention_heads", "num_hidden_layers"):
        assert data["metadata"][key] == config[key]
    assert data["metadata"]["context_length"] == 512
    assert "quantization" not in data["metadata"]


def test_quantization_is_named_by_its_bits(isolated_cache: IsolatedCache, tiny: Path) -> None:
    config = json.loads((tiny / "config.json").read_text(encoding="utf-8"))
    config["quantization"] = {"bits": 4, "group_size": 64}
    (tiny / "config.json").write_text(json.dumps(config), encoding="utf-8")
    data = show(isolated_cache, "tiny").data
    assert data["metadata"]["quantization"] == "4bit"
    assert data["model"]["quantization"] == {"bits": 4, "group_size": 64, "mode": "affine"}


def test_files_have_sizes_and_types(isolated_cache: IsolatedCache, tiny: Path) -> None:
    (tiny / "extra").mkdir()
    (tiny / "extra" / "notes.txt").write_bytes(b"x" * 1500)
    data = show(isolated_cache, "tiny", "--files").data
    assert data["metadata"] is None
    files = {file["name"]: file for file in data["files"]}
    assert files["extra/notes.txt"] == {"name": "extra/notes.txt", "size": "1.5KB", "size_bytes": 1500, "type": "other"}
    types = {name: files[name]["type"] for name in ("config.json", "model.safetensors", "tokenizer.json", "README.md")}
    assert list(types.values()) == ["config", "weights", "tokenizer", "readme"]
    assert all(file["size_bytes"] == (tiny / name).stat().st_size for name, file in files.items())


def test_config_is_given_as_it_stands(isolated_cache: IsolatedCache, tiny: Path) -> None:
    data = show(isolated_cache, "tiny", "--config").data
    assert data["metadata"] is None
    assert data["config"] == json.loads((tiny / "config.json").read_text(encoding="utf-8"))


def test_numbers_that_json_does_not_have_become_null(isolated_cache: IsolatedCache, tiny: Path) -> None:
    (tiny / "config.json").write_text('{"model_type": "llama", "x": NaN, "y": [Infinity, 1]}', encoding="ascii")
    assert show(isolated_cache, "tiny", "--config").data["config"] == {"model_type": "llama", "x": None, "y": [None, 1]}


def test_memory_is_exact_for_weights_and_kv(isolated_cache: IsolatedCache, tiny: Path) -> None:
    config = json.loads((tiny / "config.json").read_text(encoding="utf-8"))
    raw = (tiny / "model.safetensors").stat().st_size
    header = int.from_bytes((tiny / "model.safetensors").read_bytes()[:8], "little")
    memory = show(isolated_cache, "tiny").data["memory"]
    assert memory["weights_bytes"] == raw - 8 - header
    heads, size = config["num_key_value_heads"], config["hidden_size"] // config["num_attention_heads"]
    assert memory["kv_bytes_per_token"] in [2 * config["num_hidden_layers"] * heads * size * width for width in (2, 4)]
    assert memory["recommended_bytes"] > memory["weights_bytes"]


def test_the_path_is_told_only_when_asked_for(isolated_cache: IsolatedCache, tiny: Path) -> None:
    assert "path" not in show(isolated_cache, "tiny").data
    assert show(isolated_cache, "tiny", "--path").data["path"] == str(tiny)


def test_a_broken_model_is_shown_with_its_reason(isolated_cache: IsolatedCache) -> None:
    plant(isolated_cache.hub, "org/m")
    model = show(isolated_cache, "org/m").data["model"]
    assert (model["health"], model["reason"]) == ("unhealthy", "No model weights found")


@pytest.mark.parametrize("content", ["", "{", "[]", "{" * 5000, '{"a": ' * 500 + "1" + "}" * 500])
def test_a_config_that_cannot_be_shown_is_an_error(isolated_cache: IsolatedCache, content: str) -> None:
    repo = plant(isolated_cache.hub, "org/m")
    (repo / "snapshots" / COMMIT_A / "config.json").write_text(content, encoding="ascii")
    answer = show(isolated_cache, "org/m", "--config")
    assert (answer.code, answer.error["type"]) == (1, "show_operation_failed")


def test_a_model_without_files_is_not_cached(isolated_cache: IsolatedCache) -> None:
    (isolated_cache.hub / "models--org--m" / "snapshots").mkdir(parents=True)
    assert show(isolated_cache, "org/m").error["type"] == "model_not_cached"


def test_a_workspace_is_shown_without_a_hash(isolated_cache: IsolatedCache, tiny: Path) -> None:
    model = show(isolated_cache, str(tiny)).data["model"]
    assert (model["source"], model["cached"], model["hash"]) == ("workspace", False, None)


def test_files_and_config_exclude_each_other(isolated_cache: IsolatedCache, tiny: Path) -> None:
    answer = show(isolated_cache, "tiny", "--files", "--config")
    assert (answer.code, answer.error["type"]) == (2, "CommandError")
