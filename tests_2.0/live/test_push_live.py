"""A push to a real private repository. Runs with MLXK2_LIVE_PUSH=1, HF_TOKEN, MLXK2_LIVE_REPO and MLXK2_LIVE_WORKSPACE.

The branch of that repository becomes what the folder is: use one that is for this only.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from support.isolation import USER_ENVIRON

pytestmark = [pytest.mark.live, pytest.mark.wet, pytest.mark.live_push]

REPO = USER_ENVIRON.get("MLXK2_LIVE_REPO", "")
WORKSPACE = USER_ENVIRON.get("MLXK2_LIVE_WORKSPACE", "")


@pytest.fixture(autouse=True)
def _needs_a_target() -> None:
    missing = [name for name in ("MLXK2_LIVE_REPO", "MLXK2_LIVE_WORKSPACE", "HF_TOKEN") if not USER_ENVIRON.get(name)]
    if missing:
        pytest.skip(f"live: set {', '.join(missing)}")


def run_push(*words: str, env: dict[str, str] | None = None) -> tuple[int, dict[str, Any], str]:
    command = [sys.executable, "-m", "mlxk2", "push", WORKSPACE, REPO, *words, "--json"]
    environ = {**USER_ENVIRON, "MLXK2_ENABLE_ALPHA_FEATURES": "1", **(env or {})}
    result = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=1800, check=False)
    assert USER_ENVIRON["HF_TOKEN"] not in result.stdout + result.stderr
    return result.returncode, json.loads(result.stdout), result.stderr


def test_the_folder_is_checked_without_the_network() -> None:
    code, answer, _ = run_push("--check-only", env={"HF_HUB_OFFLINE": "1", "HF_TOKEN": ""})
    assert (code, answer["data"]["repo_id"]) == (0, REPO)
    assert "workspace_health" in answer["data"]


def test_the_dry_run_changes_nothing_and_tells_the_truth() -> None:
    code, first, _ = run_push("--private", "--create", "--dry-run")
    assert (code, first["data"]["dry_run"]) == (0, True)
    _, second, _ = run_push("--private", "--create", "--dry-run")
    assert first["data"]["dry_run_summary"] == second["data"]["dry_run_summary"]


def test_a_push_and_then_nothing_to_push() -> None:
    code, answer, err = run_push("--private", "--create")
    assert (code, err) == (0, ""), answer
    data = answer["data"]
    if not data["no_changes"]:
        assert data["uploaded_files_count"] == sum(data["change_summary"].values())
        assert data["commit_sha"] in data["commit_url"]
    code, answer, _ = run_push("--private")
    data = answer["data"]
    assert (code, data["no_changes"], data["commit_sha"], data["uploaded_files_count"]) == (0, True, None, 0)
    assert "No files have been modified" in data["message"]


def test_a_wrong_token_is_told_as_such() -> None:
    code, answer, _ = run_push("--private", env={"HF_TOKEN": "hf_" + "x" * 34})
    assert (code, answer["error"]["type"]) == (1, "auth_error")
