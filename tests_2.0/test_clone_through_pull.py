"""clone of what is not in the cache, or not sound there: pull fetches it first, and its failures are told as its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import cache_builder as build
from support.call import Result, call
from support.hub_server import Fault, HubServer
from support.isolation import IsolatedCache
from support.pulling import hub_env, model_files, publish, published_files, wrong_blobs

from mlxk2.store.origin import SENTINEL_FILE

NAME = "mlx-community/tiny"
FILES = model_files(200_000)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "store") as server:
        yield server


@pytest.fixture
def env(isolated_cache: IsolatedCache, hub: HubServer) -> dict[str, str]:
    return hub_env(isolated_cache, hub, MLXK2_ENABLE_ALPHA_FEATURES="1")


def clone(env: dict[str, str], target: Path, *words: str, model: str = NAME) -> Result:
    return call("clone", model, str(target), *words, "--json", env=env)


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != SENTINEL_FILE)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def assert_failed(answer: Result, error: str, status: str, target: Path, cause: str | None = None) -> None:
    assert (answer.code, answer.error["type"], answer.data["clone_status"]) == (1, error, status)
    assert answer.data["message"] == answer.error["message"]
    assert answer.error.get("detail", {}).get("type") == cause
    assert not target.exists()


def test_a_model_that_is_not_cached_is_fetched_once(hub: HubServer, env: dict[str, str], tmp_path: Path) -> None:
    repo = publish(hub, NAME, FILES)
    answer = clone(env, tmp_path / "a", model="tiny")
    assert (answer.code, answer.data["model"], answer.data["commit_hash"]) == (0, NAME, repo.head())
    assert content(tmp_path / "a") == published_files(repo)
    hub.reset_counters()
    assert clone(env, tmp_path / "b").data["commit_hash"] == repo.head()
    assert content(tmp_path / "b") == published_files(repo)
    assert hub.requests == []


def test_a_revision_that_is_not_cached_is_fetched(hub: HubServer, env: dict[str, str], tmp_path: Path) -> None:
    repo = publish(hub, NAME, FILES)
    assert clone(env, tmp_path / "main").code == 0
    repo.branch("dev", repo.head())
    repo.commit({"README.md": b"of the branch\n"}, branch="dev")
    for number, (at, words) in enumerate((("@dev", ()), ("", ("--branch", "dev")), (f"@{repo.head('dev')}", ()))):
        answer = clone(env, tmp_path / str(number), *words, model=NAME + at)
        assert answer.data["commit_hash"] == repo.head("dev")
        assert content(tmp_path / str(number)) == published_files(repo, "dev")


def test_a_broken_model_is_repaired_before_it_is_copied(
    hub: HubServer, isolated_cache: IsolatedCache, env: dict[str, str], tmp_path: Path
) -> None:
    repo = publish(hub, NAME, FILES)
    assert call("pull", NAME, "--json", env=env).code == 0
    snapshot = isolated_cache.hub / build.repo_folder(NAME) / "snapshots" / repo.head()
    build.truncate((snapshot / "model.safetensors").resolve(), 1000)
    answer = clone(env, tmp_path / "mine")
    assert answer.code == 0
    assert content(tmp_path / "mine") == published_files(repo)
    assert wrong_blobs(isolated_cache) == []


def test_what_pull_says_is_kept(hub: HubServer, env: dict[str, str], tmp_path: Path) -> None:
    publish(hub, NAME, FILES)
    hub.create_repo("org/gated", gated="manual").commit(FILES)
    hub.add_token("hf_alice", user="alice")
    env, target = {**env, "HF_TOKEN": "hf_alice"}, tmp_path / "mine"
    for model, cause, said in (
        ("org/nothing", "model_not_found", "org/nothing"),
        ("org/gated", "access_denied", "org/gated"),
        (f"{NAME}@nowhere", "revision_not_found", "nowhere"),
    ):
        answer = clone(env, target, model=model)
        assert_failed(answer, "PullFailedError", "pull_failed", target, cause)
        pulled = call("pull", model, "--json", env=env)
        assert pulled.error["type"] == cause
        assert answer.error["message"] == pulled.error["message"]
        assert answer.error.get("hint") == pulled.error.get("hint")
        assert said in answer.error["message"]
        assert "hf_alice" not in answer.stdout


def test_a_download_that_breaks_off_can_be_tried_again(hub: HubServer, env: dict[str, str], tmp_path: Path) -> None:
    publish(hub, NAME, FILES)
    fault = hub.add_fault(Fault("status", on="storage", status=403))
    answer = clone(env, tmp_path / "mine")
    assert (answer.error["type"], answer.data["clone_status"]) == ("PullFailedError", "pull_failed")
    assert not (tmp_path / "mine").exists()
    hub.remove_fault(fault)
    assert clone(env, tmp_path / "mine").code == 0


def test_offline_is_a_failed_pull(hub: HubServer, env: dict[str, str], tmp_path: Path) -> None:
    publish(hub, NAME, FILES)
    answer = clone({**env, "HF_HUB_OFFLINE": "1"}, tmp_path / "mine")
    assert_failed(answer, "PullFailedError", "pull_failed", tmp_path / "mine", "offline")
    assert hub.requests == []


def test_what_is_no_sound_model_on_the_hub_is_copied_only_without_the_check(
    hub: HubServer, env: dict[str, str], tmp_path: Path
) -> None:
    files = {name: text for name, text in FILES.items() if name != "config.json"}
    repo = publish(hub, NAME, files)
    answer = clone(env, tmp_path / "mine")
    assert_failed(answer, "ModelUnhealthyError", "health_check_failed", tmp_path / "mine")
    assert "config.json missing" in answer.error["message"]
    answer = clone(env, tmp_path / "mine", "--no-health-check", model=f"{NAME}@{repo.head()}")
    assert (answer.code, answer.data["health_check"]) == (0, False)
    assert content(tmp_path / "mine") == files


def test_nothing_is_fetched_for_a_target_that_cannot_be(hub: HubServer, env: dict[str, str], tmp_path: Path) -> None:
    publish(hub, NAME, FILES)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_bytes(b"keep")
    answer = clone(env, tmp_path / "full")
    assert (answer.error["type"], answer.data["model"]) == ("InvalidTargetError", NAME)
    assert hub.requests == []


def test_a_sentinel_that_somebody_published_is_not_the_clones(
    hub: HubServer, env: dict[str, str], tmp_path: Path
) -> None:
    publish(hub, NAME, {**FILES, SENTINEL_FILE: b'{"version": 1}'})
    assert clone(env, tmp_path / "mine").data["files"] == len(FILES)
    origin = call("show", str(tmp_path / "mine"), "--json", env=env).data["origin"]
    assert (origin["model"], origin["status"]) == (NAME, "unchanged")
