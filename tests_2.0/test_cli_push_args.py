"""The command line of `push`: what it refuses before it looks at anything, and in which order."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.call import call
from support.isolation import IsolatedCache
from support.pushing import workspace

ALPHA = {"MLXK2_ENABLE_ALPHA_FEATURES": "1"}


@pytest.fixture
def env(isolated_cache: IsolatedCache) -> dict[str, str]:
    """Nothing listens where the Hub should be."""
    return {**isolated_cache.env, **ALPHA, "HF_ENDPOINT": "http://127.0.0.1:9"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return workspace(tmp_path / "model")


@pytest.mark.parametrize("switch", ["", "0", "false", None])
def test_without_the_switch_there_is_no_push(folder: Path, isolated_cache: IsolatedCache, switch: str | None) -> None:
    env = isolated_cache.env if switch is None else {**isolated_cache.env, "MLXK2_ENABLE_ALPHA_FEATURES": switch}
    answer = call("push", str(folder), "org/m", "--check-only", "--json", env=env)
    assert (answer.code, answer.error["type"]) == (2, "CommandError")
    assert "MLXK2_ENABLE_ALPHA_FEATURES" in answer.error["hint"]
    assert "push" not in call("--help", env=env).stdout.split()


def test_the_help_names_every_flag(env: dict[str, str]) -> None:
    shown = call("push", "--help", env=env).stdout
    for flag in (
        "private",
        "create",
        "branch",
        "commit",
        "check-only",
        "dry-run",
        "verbose",
        "strict",
        "json",
        "quiet",
    ):
        assert f"--{flag}" in shown


def test_private_is_required_and_the_hint_is_the_command(folder: Path, env: dict[str, str]) -> None:
    for words in ([], ["--dry-run"], ["--create", "--strict"]):
        answer = call("push", str(folder), "org/m", *words, "--json", env=env)
        assert (answer.code, answer.error["type"]) == (2, "CommandError")
        assert "--private" in answer.error["message"]
        assert answer.error["hint"] == f"mlxk2 push {folder} org/m --private"


def test_check_only_needs_no_private_no_token_no_network(folder: Path, env: dict[str, str]) -> None:
    answer = call("push", str(folder), "org/m", "--check-only", "--json", env=env)
    assert (answer.code, answer.data["workspace_health"]["healthy"]) == (0, True)


def test_check_only_works_offline(folder: Path, env: dict[str, str]) -> None:
    answer = call("push", str(folder), "org/m", "--check-only", "--json", env={**env, "HF_HUB_OFFLINE": "1"})
    assert answer.code == 0


def test_check_only_wins_over_everything(folder: Path, env: dict[str, str]) -> None:
    words = ["--private", "--create", "--dry-run", "--branch", "dev"]
    answer = call("push", str(folder), "org/m", "--check-only", *words, "--json", env={**env, "HF_TOKEN": "hf_x"})
    assert answer.code == 0
    assert "dry_run" not in answer.data
    assert (answer.data["commit_sha"], answer.data["uploaded_files_count"]) == (None, 0)


def test_the_defaults_are_main_and_the_message_of_old(folder: Path, env: dict[str, str]) -> None:
    answer = call("push", str(folder), "org/m", "--check-only", "--json", env=env)
    assert (answer.data["branch"], answer.data["repo_id"]) == ("main", "org/m")
    assert "mlx-knife push" not in answer.stdout


@pytest.mark.parametrize(
    "name",
    [
        "", "m", "a/b/c", "/m", "org/", "org//m", "../m", "org/..", "org/a--b", "org/m.git", "org/-m", "org/m.", "org/m n",
        "org/m@dev", "org\\m", "models--org--m", "org/" + "m" * 96, "org/m\n", "./org/m",
    ],
)  # fmt: skip
def test_what_is_no_repository_is_refused(folder: Path, env: dict[str, str], name: str) -> None:
    answer = call("push", str(folder), name, "--private", "--json", env={**env, "HF_TOKEN": "hf_x"})
    assert (answer.code, answer.error["type"], answer.error["hint"]) == (2, "CommandError", "write org/model")


@pytest.mark.parametrize(
    "branch",
    ["", "a b", "a..b", "/a", "a/", "a//b", "a~1", "a^", "a:b", "@{u}", "-a", "a.lock", ".a", "refs/pr/1", "f" * 40],
)
def test_what_is_no_branch_is_refused(folder: Path, env: dict[str, str], branch: str) -> None:
    answer = call("push", str(folder), "org/m", "--private", f"--branch={branch}", "--json", env=env)
    assert (answer.code, answer.error["type"]) == (2, "CommandError")
    assert "is no branch" in answer.error["message"]


@pytest.mark.parametrize("branch", ["main", "dev", "feature/x", "v1.0", "Users_1-2"])
def test_branches_as_git_has_them_are_fine(folder: Path, env: dict[str, str], branch: str) -> None:
    answer = call("push", str(folder), "org/m", "--check-only", "--branch", branch, "--json", env=env)
    assert (answer.code, answer.data["branch"]) == (0, branch)


@pytest.mark.parametrize("words", [[], ["x"], ["x", "org/m", "y"], ["x", "org/m", "--what"], ["x", "org/m", "--priv"]])
def test_a_wrong_number_of_words_is_a_usage_error(env: dict[str, str], words: list[str]) -> None:
    answer = call("push", *words, "--json", env=env)
    assert (answer.code, answer.error["type"], answer.json["command"]) == (2, "CommandError", "push")


def test_an_empty_message_is_refused(folder: Path, env: dict[str, str]) -> None:
    answer = call("push", str(folder), "org/m", "--private", "--commit", " ", "--json", env=env)
    assert (answer.code, answer.error["type"]) == (2, "CommandError")


def test_the_token_is_asked_for_before_the_folder(tmp_path: Path, env: dict[str, str]) -> None:
    missing = str(tmp_path / "nowhere")
    answer = call("push", missing, "org/m", "--private", "--json", env=env)
    assert (answer.code, answer.error["type"]) == (1, "auth_error")
    assert "HF_TOKEN" in answer.error["hint"]
    answer = call("push", missing, "org/m", "--private", "--json", env={**env, "HF_TOKEN": "hf_x"})
    assert (answer.code, answer.error["type"], answer.data) == (1, "workspace_not_found", None)


def test_check_only_of_no_folder_is_told_without_a_token(tmp_path: Path, env: dict[str, str]) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x")
    for missing in (tmp_path / "nowhere", file):
        answer = call("push", str(missing), "org/m", "--check-only", "--json", env=env)
        assert (answer.code, answer.error["type"]) == (1, "workspace_not_found")


def test_a_token_file_is_a_token(folder: Path, isolated_cache: IsolatedCache, env: dict[str, str]) -> None:
    (isolated_cache.hf_home / "token").write_text("hf_from_file\n", encoding="ascii")
    answer = call("push", str(folder) + "x", "org/m", "--private", "--json", env=env)
    assert answer.error["type"] == "workspace_not_found"


def test_offline_is_an_error_of_its_own(folder: Path, env: dict[str, str]) -> None:
    for words in ([], ["--dry-run"]):
        offline = {**env, "HF_HUB_OFFLINE": "1", "HF_TOKEN": "hf_x"}
        answer = call("push", str(folder), "org/m", "--private", *words, "--json", env=offline)
        assert (answer.code, answer.error["type"]) == (1, "offline")
        assert "HF_HUB_OFFLINE" in answer.error["hint"]


def test_a_password_in_the_address_is_not_repeated(folder: Path, env: dict[str, str]) -> None:
    secret = {**env, "HF_ENDPOINT": "https://user:s3cret@hub.example"}
    answer = call("push", str(folder), "org/m", "--check-only", "--verbose", "--json", env=secret)
    assert answer.data["repo_url"] == "https://hub.example/org/m"
    assert "s3cret" not in answer.stdout + answer.stderr
    answer = call("push", str(folder), "org/m", "--private", "--json", env={**secret, "HF_TOKEN": "hf_x"})
    assert (answer.code, "s3cret" in answer.stdout) == (2, False)


def test_a_folder_of_the_workspace_home_is_found_by_name(folder: Path, env: dict[str, str]) -> None:
    at_home = {**env, "MLXK2_WORKSPACE_HOME": str(folder.parent)}
    assert call("push", "model", "org/m", "--check-only", "--json", env=at_home).code == 0
    assert (
        call("push", "./model", "org/m", "--check-only", "--json", env=at_home).error["type"] == "workspace_not_found"
    )


def test_a_hub_client_that_cannot_be_imported_is_named(
    folder: Path, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    answer = call("push", str(folder), "org/m", "--private", "--json", env={**env, "HF_TOKEN": "hf_x"})
    assert (answer.code, answer.error["type"]) == (1, "dependency_missing")
    assert call("push", str(folder), "org/m", "--check-only", "--json", env=env).code == 0
