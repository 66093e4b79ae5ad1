"""One story against the loopback Hub: pull, list, show, health, run, clone, edit, push, pull elsewhere. docs/HUB.md tells it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.call import Result, call
from support.hub_server import HubServer
from support.isolation import IsolatedCache, make_cache
from support.pulling import hub_env, published_files, snapshot_files, wrong_blobs
from support.smollm2 import smollm2
from support.tiny_model import scripted_model

CARD = b"---\nlibrary_name: mlx\npipeline_tag: text-generation\ntags:\n- mlx\n---\n# A model\n"
QUESTION = "What is the capital of France?"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "store") as server:
        server.add_token("hf_write", user="alice", write=True)
        yield server


def succeeded(result: Result) -> Result:
    assert result.code == 0, result.stdout
    return result


def tell_the_story(hub: HubServer, here: IsolatedCache, elsewhere: IsolatedCache, folder: Path, answer: str) -> None:
    """`folder` is the model as its first owner has it; `answer` is in what it says."""
    original = hub.create_repo("mlx-community/story")
    original.commit({**{path.name: path for path in folder.iterdir()}, "README.md": CARD})
    more = {"HF_TOKEN": "hf_write", "MLXK2_ENABLE_ALPHA_FEATURES": "1"}
    env = hub_env(here, hub, **more)
    ask = (QUESTION, "--temperature", "0", "--max-tokens", "24", "--json")

    assert succeeded(call("pull", "story", "--json", env=env)).data["download_status"] == "success"
    (model,) = succeeded(call("list", "--json", env=env)).data["models"]
    assert (model["name"], model["hash"], model["health"]) == ("mlx-community/story", original.head(), "healthy")
    assert succeeded(call("show", "story", "--json", env=env)).data["model"]["runtime_compatible"] is True
    assert succeeded(call("health", "story", "--deep", "--json", env=env)).data["summary"]["healthy_count"] == 1
    first = succeeded(call("run", "story", *ask, env=env)).data["response"]
    assert answer in first

    mine = here.root / "mine"
    cloned = succeeded(call("clone", "story", str(mine), "--json", env=env)).data
    assert (cloned["clone_status"], cloned["commit_hash"]) == ("success", original.head())
    assert call("show", str(mine), "--json", env=env).data["origin"]["status"] == "unchanged"
    (mine / "README.md").write_bytes(CARD + b"\nNow mine.\n")
    origin = call("show", str(mine), "--json", env=env).data["origin"]
    assert (origin["status"], origin["changed"]) == ("modified", ["README.md"])

    push = ("push", str(mine), "alice/story", "--private", "--create", "--commit", "mine", "--json")
    plan = succeeded(call(*push, "--dry-run", env=env)).data
    assert plan["would_create_repo"] is True
    pushed = succeeded(call(*push, env=env)).data
    copy = hub.repo("alice/story")
    assert pushed["commit_sha"] == copy.head()
    assert set(published_files(copy)) - {".gitattributes"} == set(published_files(original))
    assert copy.read("main", "README.md").endswith(b"Now mine.\n")
    assert succeeded(call(*push, env=env)).data["no_changes"] is True

    there = hub_env(elsewhere, hub, **more)
    assert succeeded(call("pull", "alice/story", "--json", env=there)).data["commit_hash"] == copy.head()
    assert snapshot_files(elsewhere, "alice/story", copy.head()) == published_files(copy)
    assert wrong_blobs(elsewhere) == []
    assert succeeded(call("run", "alice/story", *ask, env=there)).data["response"] == first
    assert hub.empty_commits == 0


def test_the_story_with_a_tiny_model(hub: HubServer, isolated_cache: IsolatedCache, tmp_path: Path) -> None:
    folder = tmp_path / "owner"
    folder.mkdir()
    scripted_model(folder, "It is Paris.")
    tell_the_story(hub, isolated_cache, make_cache(tmp_path / "elsewhere"), folder, "Paris")


@pytest.mark.smollm2
@pytest.mark.mlx_real
@pytest.mark.slow
def test_the_story_with_a_real_model(hub: HubServer, isolated_cache: IsolatedCache, tmp_path: Path) -> None:
    tell_the_story(hub, isolated_cache, make_cache(tmp_path / "elsewhere"), smollm2("4bit"), "Paris")
