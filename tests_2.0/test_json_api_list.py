"""`list --json`: every model that is there, sorted, with true figures; flags and broken neighbours change nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.call import call
from support.isolation import IsolatedCache
from support.planting import COMMIT_A, plant, plant_tiny
from support.tiny_model import TinyOptions

FIELDS = [
    "name", "hash", "size_bytes", "last_modified", "framework", "model_type", "capabilities", "health",
    "runtime_compatible", "reason", "cached", "context_length", "quantization", "parameters", "source",
]  # fmt: skip


def models(cache: IsolatedCache, *words: str) -> list[dict[str, object]]:
    answer = call("list", *words, "--json", env=cache.env)
    assert answer.code == 0
    assert answer.data["count"] == len(answer.data["models"])
    return list(answer.data["models"])


def test_an_empty_cache_is_an_empty_list(isolated_cache: IsolatedCache) -> None:
    assert call("list", "--json", env=isolated_cache.env).data == {"models": [], "count": 0}


def test_a_sound_model_has_every_field_in_order(isolated_cache: IsolatedCache) -> None:
    folder = plant_tiny(isolated_cache.hub, "org/tiny", TinyOptions(context_length=512))
    (model,) = models(isolated_cache)
    assert list(model) == FIELDS
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert (model["name"], model["hash"], model["size_bytes"]) == ("org/tiny", COMMIT_A, size)
    assert (model["framework"], model["model_type"]) == ("MLX", "chat")
    assert model["capabilities"] == ["text-generation", "chat"]
    assert (model["health"], model["runtime_compatible"], model["reason"]) == ("healthy", True, None)
    assert (model["cached"], model["source"], model["context_length"]) == (True, "cache", 512)
    assert model["quantization"] is None


def test_parameters_are_counted_from_the_headers(isolated_cache: IsolatedCache) -> None:
    folder = plant_tiny(isolated_cache.hub, "org/tiny")
    raw = (folder / "model.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    count = 0
    for name, tensor in header.items():
        if name != "__metadata__":
            size = 1
            for length in tensor["shape"]:
                size *= length
            count += size
    assert models(isolated_cache)[0]["parameters"] == count


def test_models_are_sorted_and_the_sentinel_is_none(isolated_cache: IsolatedCache) -> None:
    for name in ("z/last", "A/first", "mlx-community/mid"):
        plant(isolated_cache.hub, name)
    assert [m["name"] for m in models(isolated_cache)] == ["A/first", "mlx-community/mid", "z/last"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [("PHI", ["org/Phi-3", "phi/other"]), ("org/", ["org/Phi-3"]), ("nothing", []), ("3", ["org/Phi-3"])],
)
def test_a_pattern_is_a_part_of_the_full_name_in_any_case(
    isolated_cache: IsolatedCache, pattern: str, found: list[str]
) -> None:
    for name in ("org/Phi-3", "phi/other", "x/y"):
        plant(isolated_cache.hub, name)
    assert [m["name"] for m in models(isolated_cache, pattern)] == found


@pytest.mark.parametrize("flag", ["--all", "--health", "--verbose"])
def test_flags_for_people_do_not_change_the_answer(isolated_cache: IsolatedCache, flag: str) -> None:
    plant_tiny(isolated_cache.hub, "mlx-community/tiny")
    plant(isolated_cache.hub, "org/broken")
    assert models(isolated_cache, flag) == models(isolated_cache)


def test_hf_hub_cache_goes_before_hf_home(isolated_cache: IsolatedCache, tmp_path: Path) -> None:
    plant(isolated_cache.hub, "org/a")
    plant(tmp_path / "other", "org/b")
    env = {**isolated_cache.env, "HF_HUB_CACHE": str(tmp_path / "other")}
    assert [m["name"] for m in call("list", "--json", env=env).data["models"]] == ["org/b"]
    empty = {**isolated_cache.env, "HF_HUB_CACHE": ""}
    assert [m["name"] for m in call("list", "--json", env=empty).data["models"]] == ["org/a"]


def test_one_bad_model_hides_no_other(isolated_cache: IsolatedCache) -> None:
    hub = isolated_cache.hub
    plant_tiny(hub, "org/good")
    (hub / "models--org--file").write_text("no folder", encoding="ascii")
    (hub / "models--org--loop").symlink_to("models--org--loop")
    (hub / "models--org--empty").mkdir()
    (hub / "stray.txt").write_text("", encoding="ascii")
    bad = plant(hub, "org/list") / "snapshots" / COMMIT_A / "config.json"
    bad.write_text("[1, 2]", encoding="ascii")
    found = {m["name"]: (m["health"], m["reason"]) for m in models(isolated_cache)}
    assert found["org/good"] == ("healthy", None)
    assert found["org/list"] == ("unhealthy", "config.json is empty or invalid")
    assert found["org/empty"] == ("unhealthy", "No snapshots found")
    assert found["org/file"][0] == found["org/loop"][0] == "unhealthy"
    assert len(found) == 5


def test_names_that_are_no_text_are_listed_and_printed(isolated_cache: IsolatedCache) -> None:
    import os

    folder = os.fsencode(isolated_cache.hub) + b"/models--org--\xff\xfe"
    os.makedirs(folder + b"/snapshots")
    (model,) = models(isolated_cache)
    assert model["name"] == "org/\ufffd\ufffd"
    call("list", "--json", env=isolated_cache.env).stdout.encode("utf-8")
    assert call("list", "--all", env=isolated_cache.env).code == 0
