"""What a pull says must be so: of bytes it takes over, of revisions that stay the default, of what to type next."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import cache_builder as build
from support.call import call
from support.hub_server import Fault, HubServer
from support.isolation import IsolatedCache
from support.pulling import (
    MEBIBYTE,
    finish,
    hub_env,
    model_files,
    publish,
    published_files,
    snapshot_files,
    start_pull,
    until_progress,
    weights,
    wrong_blobs,
)

NAME = "org/tiny"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "store") as server:
        yield server


@pytest.fixture
def env(hub: HubServer, isolated_cache: IsolatedCache) -> dict[str, str]:
    return hub_env(isolated_cache, hub)


def default_of(env: dict[str, str]) -> str:
    model = call("show", NAME, "--json", env=env).data["model"]
    assert model["health"] == "healthy"
    return str(model["hash"])


def test_what_is_taken_over_from_another_revision_is_verified_too(
    hub: HubServer, isolated_cache: IsolatedCache, env: dict[str, str]
) -> None:
    repo = publish(hub)
    old = repo.head()
    assert call("pull", f"{NAME}@{old}", "--json", env=env).code == 0
    blob = (isolated_cache.hub / "models--org--tiny" / "snapshots" / old / "model.safetensors").resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    repo.commit({"notes.txt": b"new"})
    answer = call("pull", f"{NAME}@main", "--json", env=env)
    assert (answer.code, answer.data["bytes_downloaded"]) == (0, len(content) + 3)
    assert wrong_blobs(isolated_cache) == []


def test_a_part_of_a_newer_revision_does_not_take_the_default_away(hub: HubServer, env: dict[str, str]) -> None:
    repo = publish(hub)
    old = repo.head()
    call("pull", NAME, "--json", env=env)
    new = repo.commit({"README.md": b"---\nlibrary_name: mlx\n---\nnew\n"})
    answer = call("pull", NAME, "--force", "--include", "README.md", "--json", env=env)
    assert (answer.code, answer.data["commit_hash"]) == (0, new)
    assert "stays the default" in answer.data["message"]
    assert default_of(env) == old
    assert call("pull", NAME, "--force", "--json", env=env).code == 0
    assert default_of(env) == new


def test_a_newer_revision_that_is_no_sound_model_does_not_either(hub: HubServer, env: dict[str, str]) -> None:
    repo = publish(hub)
    old = repo.head()
    call("pull", NAME, "--json", env=env)
    repo.commit({"config.json": b"{"})
    answer = call("pull", NAME, "--force", "--json", env=env)
    assert (answer.code, answer.error["type"]) == (1, "model_corrupted")
    assert default_of(env) == old


@pytest.mark.parametrize("body", [b"[]", b"{}"])
def test_a_hub_that_lists_nothing_is_not_believed(
    body: bytes, hub: HubServer, isolated_cache: IsolatedCache, env: dict[str, str]
) -> None:
    repo = publish(hub)
    active = hub.add_fault(Fault("body", on="tree", body=body))
    answer = call("pull", NAME, "--json", env=env)
    assert active.hits
    assert (answer.code, answer.error["type"]) == (1, "download_failed")
    assert not (isolated_cache.hub / "models--org--tiny").exists()
    hub.clear_faults()
    call("pull", NAME, "--json", env=env)
    hub.add_fault(Fault("body", on="tree", body=body))
    assert call("pull", NAME, "--force", "--json", env=env).code == 1
    assert default_of(env) == repo.head()


def test_a_model_that_was_fetched_in_part_can_be_completed(
    hub: HubServer, isolated_cache: IsolatedCache, env: dict[str, str]
) -> None:
    repo = publish(hub, files={**model_files(), "extra.gguf": b"GGUF" + bytes(100)})
    call("pull", NAME, "--exclude", "*.gguf", "--exclude", "extra/", "--json", env=env)
    assert call("pull", NAME, "--include", "extra.gguf", "--json", env=env).data["download_status"] == "success"
    assert "extra.gguf" in snapshot_files(isolated_cache, NAME, repo.head())
    assert call("pull", NAME, "--json", env=env).data["download_status"] == "success"
    assert snapshot_files(isolated_cache, NAME, repo.head()) == published_files(repo)
    hub.reset_counters()
    assert call("pull", NAME, "--json", env=env).data["download_status"] == "already_exists"
    assert hub.requests == []
    assert call("rm", NAME, "--json", env=env).data["action"] == "deleted"
    assert not (isolated_cache.hub / "models--org--tiny").exists()


def test_a_dry_run_of_a_cached_model_is_a_dry_run(hub: HubServer, env: dict[str, str]) -> None:
    publish(hub)
    call("pull", NAME, "--json", env=env)
    data = call("pull", NAME, "--dry-run", "--json", env=env).data
    assert (data["download_status"], data["bytes_reused"]) == ("planned", data["bytes_total"])
    assert {file["action"] for file in data["files"]} == {"reuse"}
    offline = call("pull", NAME, "--dry-run", "--json", env={**env, "HF_HUB_OFFLINE": "1"})
    assert offline.data["download_status"] == "already_exists"


def test_a_cached_model_that_will_not_run_is_told_again(hub: HubServer, env: dict[str, str]) -> None:
    files = {**model_files(), "config.json": build.as_json({**build.CONFIG, "model_type": "novel"})}
    publish(hub, files=files)
    call("pull", NAME, "--json", env=env)
    again = call("pull", NAME, "--json", env=env)
    assert (again.data["download_status"], "novel" in again.data["runtime_warning"]) == ("already_exists", True)
    assert call("pull", NAME, env=env).stderr.startswith("warning: org/tiny will not run here")


def test_the_hint_is_the_command_that_was_typed_and_the_data_tell_how_far_it_came(
    hub: HubServer, isolated_cache: IsolatedCache
) -> None:
    repo = publish(hub, files={**model_files(), "model.safetensors": weights(24 * MEBIBYTE)})
    repo.branch("dev", repo.head())
    hub.limit_rate(MEBIBYTE)
    words = ("--include", "*.safetensors", "--stream-json")
    with start_pull(isolated_cache, hub, f"{NAME}@dev", *words) as process:
        until_progress(process, MEBIBYTE)
        process.send_signal(signal.SIGINT)
        code, out = finish(process)
    answer = json.loads(out.splitlines()[-1])
    assert code == 130
    assert answer["error"]["hint"].endswith("mlxk2 pull org/tiny@dev --include '*.safetensors'")
    assert answer["data"]["commit_hash"] == repo.head()
    assert 0 < answer["data"]["bytes_downloaded"] < answer["data"]["bytes_total"]


def test_a_file_in_the_snapshot_that_the_hub_does_not_list_is_named(
    hub: HubServer, isolated_cache: IsolatedCache, env: dict[str, str]
) -> None:
    repo = publish(hub)
    call("pull", NAME, "--json", env=env)
    snapshot = isolated_cache.hub / "models--org--tiny" / "snapshots" / repo.head()
    (snapshot / "model-00001-of-00002.safetensors").write_bytes(build.safetensors())
    answer = call("pull", NAME, "--json", env=env)
    assert answer.error["type"] == "model_corrupted"
    assert "model-00001-of-00002.safetensors" in answer.error["message"]
    assert "mlxk2 rm org/tiny" in answer.error["hint"]
