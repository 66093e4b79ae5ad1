"""The real `mlxk2 list`, for people, on the user's own cache. Runs with MLXK2_LIVE_LIST=1 or `-m live_list`; only reads."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from support.isolation import USER_ENVIRON

pytestmark = [pytest.mark.live, pytest.mark.wet, pytest.mark.live_list]


def run_list(*flags: str) -> str:
    env = {**USER_ENVIRON, "COLUMNS": "200", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "mlxk2", "list", *flags]
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def models() -> list[dict]:
    found = json.loads(run_list("--json"))["data"]["models"]
    if not found:
        pytest.skip("the cache is empty")
    return found


def test_default_table_shows_the_chat_models(models: list[dict]) -> None:
    shown = run_list()
    for column in ("Name", "Hash", "Size", "Modified", "Type"):
        assert column in shown
    for model in models:
        is_row = model["framework"] == "MLX" and model["model_type"] == "chat"
        assert not is_row or model["name"].removeprefix("mlx-community/") in shown


def test_all_shows_every_model_with_its_framework(models: list[dict]) -> None:
    shown = run_list("--all", "--verbose")
    assert "Framework" in shown
    assert all(model["name"] in shown for model in models)


def test_health_column_agrees_with_the_json(models: list[dict]) -> None:
    shown = run_list("--all", "--health", "--verbose")
    assert {"Integrity", "Runtime", "Reason"} <= set(shown.split())
    for model in models:
        row = next(line for line in shown.splitlines() if model["name"] in line.split())
        assert model["health"] in row


def test_the_sentinel_of_tests_is_never_shown() -> None:
    assert "TEST-CACHE-SENTINEL" not in run_list("--all")
