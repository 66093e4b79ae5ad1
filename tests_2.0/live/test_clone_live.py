"""The real `mlxk2 clone`, from the real Hub. Runs with MLXK2_LIVE_CLONE=1 or `-m live_clone`.

MLXK2_LIVE_CLONE_MODEL names the model, MLXK2_LIVE_CLONE_WORKSPACE a folder in which a new one is made, and removed again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from support.isolation import USER_ENVIRON

pytestmark = [pytest.mark.live, pytest.mark.wet, pytest.mark.live_clone]


def mlxk2(*words: str) -> Any:
    """Run a command as the user, and give the data of its answer."""
    env = {**USER_ENVIRON, "MLXK2_ENABLE_ALPHA_FEATURES": "1"}
    command = [sys.executable, "-m", "mlxk2", *words, "--json"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=3600, check=False)
    assert done.returncode == 0, done.stdout
    return json.loads(done.stdout)["data"]


@pytest.fixture(scope="module")
def model() -> str:
    name = USER_ENVIRON.get("MLXK2_LIVE_CLONE_MODEL")
    if not name:
        pytest.skip("set MLXK2_LIVE_CLONE_MODEL=org/model")
    return name


@pytest.fixture
def target() -> Iterator[Path]:
    folder = USER_ENVIRON.get("MLXK2_LIVE_CLONE_WORKSPACE")
    if folder:
        os.makedirs(folder, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix="mlxk2-clone-") as made:
        yield Path(made) / "model"


def test_a_real_model_is_cloned_edited_and_told_apart(model: str, target: Path) -> None:
    cloned = mlxk2("clone", model, str(target))
    assert cloned["clone_status"] == "success"
    assert cloned["target_dir"] == os.path.realpath(target)
    assert not any(path.is_symlink() for path in target.rglob("*"))
    shown = mlxk2("show", str(target))
    assert (shown["model"]["health"], shown["origin"]["status"]) == ("healthy", "unchanged")
    assert shown["origin"]["revision"] == cloned["commit_hash"]
    assert shown["model"]["size_bytes"] <= cloned["bytes"]
    assert mlxk2("health", str(target), "--deep")["summary"]["healthy_count"] == 1
    (target / "README.md").write_text("mine\n", encoding="utf-8")
    assert mlxk2("show", str(target))["origin"]["changed"] == ["README.md"]
