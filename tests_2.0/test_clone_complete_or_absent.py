"""Whatever ends a clone before its time, the target is complete or absent, and what others put there stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from support import cache_builder as build
from support.isolation import IsolatedCache
from support.planting import COMMIT_A

from mlxk2.errors import CloneFailed, Interrupted, InvalidTarget
from mlxk2.operations.clone import CloneRequest, clone_model
from mlxk2.settings import Settings

NAME = "org/model"
FILES = {**build.chat_model(), "extra/notes.txt": b"in a folder\n"}


@pytest.fixture
def blobs(isolated_cache: IsolatedCache) -> Path:
    repo = build.Repo(isolated_cache.hub, NAME)
    repo.snapshot(FILES, COMMIT_A)
    return repo.path / "blobs"


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder with nothing in it but what the clone makes."""
    (tmp_path / "desk").mkdir()
    return tmp_path / "desk"


def steps_of(cache: IsolatedCache, target: Path) -> Generator[Any, None, Any]:
    return clone_model(CloneRequest(NAME, "out", target), Settings.from_env(cache.env))


def half_way(cache: IsolatedCache, target: Path) -> Generator[Any, None, Any]:
    """Start a clone, and stop where some files are copied."""
    steps = steps_of(cache, target)
    for _ in range(5):
        next(steps)
    (partial,) = [path for path in target.parent.iterdir() if ".partial-" in path.name]
    assert any(path.is_file() for path in partial.iterdir())
    assert not target.exists()
    return steps


def test_an_interrupt_leaves_nothing_not_even_the_parents(
    isolated_cache: IsolatedCache, blobs: Path, desk: Path
) -> None:
    steps = half_way(isolated_cache, desk / "a" / "b" / "out")
    with pytest.raises(Interrupted) as interrupted:
        steps.throw(KeyboardInterrupt())
    assert interrupted.value.exit_code == 130
    assert interrupted.value.data.clone_status == "error"
    assert os.listdir(desk) == []


def test_a_clone_that_is_left_lying_leaves_nothing(isolated_cache: IsolatedCache, blobs: Path, desk: Path) -> None:
    half_way(isolated_cache, desk / "out").close()
    assert os.listdir(desk) == []


@pytest.mark.parametrize("change", [-100, 100])
def test_a_blob_that_changes_meanwhile_is_noticed(
    isolated_cache: IsolatedCache, blobs: Path, desk: Path, change: int
) -> None:
    steps = steps_of(isolated_cache, desk / "out")
    next(steps)
    next(steps)
    smallest = min(blobs.iterdir(), key=lambda path: path.stat().st_size)
    build.truncate(smallest, max(smallest.stat().st_size + change, 0))
    with pytest.raises(CloneFailed, match="changed in the cache while it was being copied") as failed:
        list(steps)
    assert failed.value.data.clone_status == "error"
    assert os.listdir(desk) == []


def test_a_blob_that_vanishes_meanwhile_is_noticed(isolated_cache: IsolatedCache, blobs: Path, desk: Path) -> None:
    steps = steps_of(isolated_cache, desk / "out")
    next(steps)
    next(steps)
    for blob in blobs.iterdir():
        blob.unlink()
    with pytest.raises(CloneFailed, match="cannot be read from the cache"):
        list(steps)
    assert os.listdir(desk) == []


def test_a_blob_that_becomes_a_link_meanwhile_is_not_followed(
    isolated_cache: IsolatedCache, blobs: Path, desk: Path
) -> None:
    steps = steps_of(isolated_cache, desk / "out")
    next(steps)
    next(steps)
    for blob in blobs.iterdir():
        secret = blob.with_name(f"{blob.name}.secret")
        secret.write_bytes(b"s" * blob.stat().st_size)
        blob.unlink()
        blob.symlink_to(secret)
    with pytest.raises(CloneFailed, match="cannot be read from the cache"):
        list(steps)
    assert os.listdir(desk) == []


def test_a_target_that_is_filled_meanwhile_is_not_touched(
    isolated_cache: IsolatedCache, blobs: Path, desk: Path
) -> None:
    steps = half_way(isolated_cache, desk / "out")
    (desk / "out").mkdir()
    (desk / "out" / "mine").write_bytes(b"keep")
    with pytest.raises(InvalidTarget, match="filled by somebody else"):
        list(steps)
    assert os.listdir(desk) == ["out"]
    assert os.listdir(desk / "out") == ["mine"]


# The file system takes 4,000 bytes a file, and then no more.
NARROW = """
import resource, sys
from mlxk2.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
sys.exit(main(sys.argv[1:]))
"""

# Says through a pipe that everything is copied, and then takes its time.
WAITING = """
import os, sys, time
fsync = os.fsync
def waiting(descriptor):
    os.write(int(sys.argv[1]), b"x")
    while True:
        time.sleep(0.05)
os.fsync = waiting
from mlxk2.cli import main
sys.exit(main(sys.argv[2:]))
"""


def alpha_env(cache: IsolatedCache) -> dict[str, str]:
    return {**os.environ, **cache.env, "MLXK2_ENABLE_ALPHA_FEATURES": "1"}


def test_a_file_system_that_takes_no_more_is_an_error_with_its_reason(
    isolated_cache: IsolatedCache, blobs: Path, desk: Path
) -> None:
    command = [sys.executable, "-c", NARROW, "clone", NAME, "out", "--json"]
    done = subprocess.run(
        command, env=alpha_env(isolated_cache), cwd=desk, capture_output=True, text=True, timeout=60, check=False
    )
    answer = json.loads(done.stdout)
    if done.returncode == 0:
        assert answer["data"]["copy_method"] != "copy"
        pytest.skip("blocks are shared here, so nothing is written")
    assert answer["error"]["type"] == "FilesystemError"
    assert answer["error"]["message"] == "'out' could not be written: File too large"
    assert answer["data"]["clone_status"] == "filesystem_error"
    assert os.listdir(desk) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing_and_exits_130(
    isolated_cache: IsolatedCache, blobs: Path, desk: Path, number: signal.Signals
) -> None:
    told, tell = os.pipe()
    command = [sys.executable, "-c", WAITING, str(tell), "clone", NAME, "a/out", "--json"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=(tell,),
        cwd=desk,
        env=alpha_env(isolated_cache),
    ) as process:
        os.close(tell)
        assert os.read(told, 1) == b"x"
        os.close(told)
        assert os.listdir(desk) == ["a"]
        process.send_signal(number)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    answer = json.loads(out)
    assert (answer["error"]["type"], answer["data"]["clone_status"]) == ("interrupted", "error")
    assert os.listdir(desk) == []
