"""clone where it could hurt: git's own folder in a model, rotten blobs, and targets that are somewhere special."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import cache_builder as build
from support.call import call
from support.hub_server import HubServer
from support.isolation import IsolatedCache
from support.planting import COMMIT_A
from support.pulling import hub_env

NAME = "org/model"
FILES = build.chat_model()


@pytest.fixture
def env(isolated_cache: IsolatedCache) -> dict[str, str]:
    return {**isolated_cache.env, "MLXK2_ENABLE_ALPHA_FEATURES": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture
def repo(isolated_cache: IsolatedCache) -> build.Repo:
    repo = build.Repo(isolated_cache.hub, NAME)
    repo.snapshot(FILES, COMMIT_A)
    return repo


@pytest.mark.parametrize("folder", [".git", ".GIT", "deep/.git", ".git ", ".git.", ".g\u200cit", "git~1"])
def test_what_git_would_run_is_not_copied(
    folder: str, isolated_cache: IsolatedCache, env: dict[str, str], tmp_path: Path
) -> None:
    evil = {**FILES, f"{folder}/config": b"[core]\n\tfsmonitor = touch /tmp/pwned\n"}
    build.Repo(isolated_cache.hub, NAME).snapshot(evil, COMMIT_A)
    answer = call("clone", NAME, str(tmp_path / "mine"), "--json", env=env)
    assert (answer.code, answer.error["type"]) == (1, "CloneOperationError")
    assert not (tmp_path / "mine").exists()


def test_what_git_would_run_is_not_pulled(isolated_cache: IsolatedCache, tmp_path: Path) -> None:
    with HubServer(tmp_path / "store") as hub:
        hub.create_repo(NAME).commit({**FILES, ".git/config": b"[core]\n"})
        answer = call("pull", NAME, "--json", env=hub_env(isolated_cache, hub))
    assert (answer.code, answer.error["type"], answer.error["retryable"]) == (1, "download_failed", False)
    assert not (isolated_cache.hub / "models--org--model").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_rotten_blob_is_not_copied_as_healthy(
    name: str, repo: build.Repo, env: dict[str, str], tmp_path: Path
) -> None:
    blob = (repo.path / "snapshots" / COMMIT_A / name).resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    answer = call("clone", NAME, str(tmp_path / "mine"), "--json", env=env)
    assert (answer.code, answer.error["type"]) == (1, "ModelUnhealthyError")
    assert f"Content hash mismatch: {name}" in answer.error["message"]
    assert not (tmp_path / "mine").exists()
    assert call("clone", NAME, str(tmp_path / "mine"), "--no-health-check", "--json", env=env).code == 0


def in_folder(folder: Path, *words: str, env: dict[str, str]) -> tuple[int, dict[str, object]]:
    """Run a command as a process in that folder."""
    command = [sys.executable, "-m", "mlxk2", *words, "--json"]
    done = subprocess.run(command, env={**os.environ, **env}, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout)


def test_the_folder_that_the_user_is_in_is_filled_and_stays_the_same(
    repo: build.Repo, env: dict[str, str], tmp_path: Path
) -> None:
    here = tmp_path / "here"
    here.mkdir(mode=0o700)
    before = os.stat(here)
    code, answer = in_folder(here, "clone", NAME, ".", env=env)
    assert code == 0, answer
    after = os.stat(here)
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert {path.name for path in here.iterdir()} == {*FILES, ".mlxk2-workspace.json"}
    assert in_folder(here, "show", ".", env=env)[1]["data"]["origin"]["status"] == "unchanged"


def test_an_empty_folder_keeps_its_permissions(repo: build.Repo, env: dict[str, str], tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    assert call("clone", NAME, str(private), "--json", env=env).code == 0
    assert os.stat(private).st_mode & 0o777 == 0o700


def test_a_model_with_a_file_of_our_sentinels_name_is_copied_without_it(
    isolated_cache: IsolatedCache, env: dict[str, str], tmp_path: Path
) -> None:
    odd = {**FILES, ".MLXK2-Workspace.json": b"{}", ".mlxk2-workspace.json/x": b"y"}
    build.Repo(isolated_cache.hub, NAME).snapshot(odd, COMMIT_A)
    assert call("clone", NAME, str(tmp_path / "mine"), "--json", env=env).code == 0
    assert call("show", str(tmp_path / "mine"), "--json", env=env).data["origin"]["model"] == NAME


def test_lists_of_a_clone_do_not_hash_it(repo: build.Repo, env: dict[str, str], tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    assert call("clone", NAME, str(mine), "--json", env=env).code == 0
    assert "origin" in call("show", str(mine), "--json", env=env).data
    for part in ("--files", "--config"):
        assert "origin" not in call("show", str(mine), part, "--json", env=env).data
