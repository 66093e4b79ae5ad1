"""`health --deep`: every blob against the hash in its name, with progress that ends at the total."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import cache_builder as build
from support.call import call
from support.isolation import IsolatedCache

from mlxk2.events import Progress
from mlxk2.inspection.content_hash import check_content
from mlxk2.inspection.files import ModelFiles
from mlxk2.store.model_ref import CACHE, WORKSPACE, ModelRef

NAME = "org/model"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"], ids=["git-sha1", "sha256"])
def test_one_changed_byte_is_found_by_deep_only(name: str, isolated_cache: IsolatedCache) -> None:
    snapshot = build.Repo(isolated_cache.hub, NAME).snapshot(build.chat_model(note="abc "))
    position = -1 if name == "model.safetensors" else (snapshot / name).read_bytes().index(b"abc")
    target = (snapshot / name).resolve()
    assert len(target.name) == (64 if name == "model.safetensors" else 40)
    content = bytearray(target.read_bytes())
    content[position] ^= 1
    target.write_bytes(bytes(content))
    assert call("health", NAME, "--json", env=isolated_cache.env).data["summary"]["healthy_count"] == 1
    (entry,) = call("health", NAME, "--deep", "--json", env=isolated_cache.env).data["unhealthy"]
    assert entry["reason"] == f"Content hash mismatch: {name}"
    assert entry["findings"] == [
        {"code": "content_hash_mismatch", "message": f"Content hash mismatch: {name}", "path": name}
    ]


def drain(ref: ModelRef, threads: int) -> tuple[list[Progress], tuple[object, ...]]:
    events, checking = [], check_content(ModelFiles.read(ref), threads)
    while True:
        try:
            events.append(next(checking))
        except StopIteration as done:
            return events, done.value


@pytest.mark.parametrize("threads", [1, 3])
def test_progress_grows_to_the_total(threads: int, tmp_path: Path) -> None:
    files = {**build.sharded_model(), "large.bin": os.urandom(40 * 2**20)}
    snapshot = build.Repo(tmp_path, NAME).snapshot(files)
    events, findings = drain(ModelRef(NAME, snapshot, None, CACHE), threads)
    done = [event.done for event in events]
    total = sum(len(content) for content in files.values())
    assert findings == ()
    assert done == sorted(done)
    assert (events[-1].done, events[-1].total) == (events[-1].total, events[0].total)
    assert 40 * 2**20 < events[-1].total <= total
    assert any(0 < event.done < event.total for event in events)


def test_a_workspace_has_nothing_to_check(tmp_path: Path) -> None:
    folder = build.model_folder(tmp_path / "model", build.chat_model())
    assert drain(ModelRef("./model", folder, None, WORKSPACE), 2) == ([], ())


def test_giving_up_half_way_ends_the_threads(tmp_path: Path) -> None:
    snapshot = build.Repo(tmp_path, NAME).snapshot({**build.chat_model(), "large.bin": os.urandom(40 * 2**20)})
    checking = check_content(ModelFiles.read(ModelRef(NAME, snapshot, None, CACHE)), 2)
    next(checking)
    checking.close()
    assert list(checking) == []


BROKEN_HASHING = """
import hashlib, sys
def refuse(*args, **options):
    raise ValueError("this hash is switched off")
hashlib.sha256 = refuse
from mlxk2.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_hash_that_cannot_be_computed_is_an_error_and_no_endless_wait(isolated_cache: IsolatedCache) -> None:
    build.Repo(isolated_cache.hub, NAME).snapshot(build.sharded_model(shards=9))
    command = [sys.executable, "-c", BROKEN_HASHING, "health", "--deep", "--json"]
    environment = {**os.environ, **isolated_cache.env}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1, done.stderr
    assert "this hash is switched off" in json.loads(done.stdout)["error"]["message"]
    assert done.stderr == ""
