"""Pulls that are killed or interrupted: real processes, a real server, and what lies on the disk afterwards."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.call import call, checked
from support.hub_server import Fault, HubServer
from support.isolation import IsolatedCache
from support.pulling import (
    MEBIBYTE,
    dangling_links,
    finish,
    hub_env,
    lock_files,
    model_files,
    published_files,
    snapshot_files,
    start_pull,
    until_progress,
    weights,
    wrong_blobs,
)

NAME = "org/tiny"
PIECE = 8 * MEBIBYTE
SIZE = 3 * PIECE


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "store") as server:
        server.create_repo(NAME).commit({**model_files(), "model.safetensors": weights(SIZE)})
        yield server


def assert_complete(cache: IsolatedCache, hub: HubServer) -> None:
    repo = hub.repo(NAME)
    assert snapshot_files(cache, NAME, repo.head()) == published_files(repo)
    assert (wrong_blobs(cache), dangling_links(cache), lock_files(cache)) == ([], [], [])
    assert not list(cache.hub.rglob("*.incomplete"))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_what_a_killed_pull_wrote_is_not_fetched_again(
    share: float, hub: HubServer, isolated_cache: IsolatedCache
) -> None:
    # Three pieces, none of which comes to its end, however late the pull is killed.
    hub.add_fault(Fault("hang", on="storage", path="*.safetensors", after=int((share + 0.02) * PIECE)))
    with start_pull(isolated_cache, hub, NAME, "--stream-json") as process:
        until_progress(process, share * SIZE)
        process.kill()
        finish(process)
    env = hub_env(isolated_cache, hub)
    plan = call("pull", NAME, "--dry-run", "--json", env=env).data
    there = plan["bytes_reused"]
    assert there >= share * SIZE - MEBIBYTE
    assert [file["action"] for file in plan["files"] if file["name"] == "model.safetensors"] == ["resume"]
    hub.clear_faults()
    hub.reset_counters()
    result = call("pull", NAME, "--json", env=env)
    assert (result.code, result.data["bytes_reused"]) == (0, there)
    assert hub.bytes_sent(NAME) <= plan["bytes_total"] - there + MEBIBYTE
    assert_complete(isolated_cache, hub)


def test_twenty_random_kills_and_then_all_hashes_are_right(hub: HubServer, isolated_cache: IsolatedCache) -> None:
    hub.limit_rate(MEBIBYTE)
    chance = random.Random(20)
    for number in range(20):
        with start_pull(isolated_cache, hub, NAME, "--stream-json") as process:
            assert process.stdout is not None
            # From when the work begins, or from when the bytes do, the moment is any.
            if number % 2:
                process.stdout.readline()
            else:
                until_progress(process, 0)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=chance.random() * 0.4)
            process.kill()
            finish(process)
        assert wrong_blobs(isolated_cache) == []
        assert dangling_links(isolated_cache) == []
    hub.limit_rate(None)
    result = call("pull", NAME, "--json", env=hub_env(isolated_cache, hub))
    assert result.code == 0, result.stdout
    assert result.data["bytes_reused"] > 0
    assert_complete(isolated_cache, hub)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_a_pull_soon_and_keeps_the_bytes(
    name: str, hub: HubServer, isolated_cache: IsolatedCache
) -> None:
    hub.limit_rate(MEBIBYTE)
    with start_pull(isolated_cache, hub, NAME, "--stream-json") as process:
        until_progress(process, 0.1 * SIZE)
        process.send_signal(getattr(signal, name))
        began = time.monotonic()
        code, out = finish(process)
        took = time.monotonic() - began
    assert code == 130
    answer = json.loads(out.splitlines()[-1])
    assert (answer["error"]["type"], answer["data"]["download_status"]) == ("interrupted", "failed")
    assert "mlxk2 pull org/tiny" in answer["error"]["hint"]
    # The promise is a second; a busy machine may need another one to notice.
    assert took < 2
    assert lock_files(isolated_cache) == []
    hub.limit_rate(None)
    result = call("pull", NAME, "--json", env=hub_env(isolated_cache, hub))
    assert result.data["bytes_reused"] >= 0.1 * SIZE - MEBIBYTE
    assert_complete(isolated_cache, hub)


def test_a_signal_while_the_hub_hangs_ends_the_pull(hub: HubServer, isolated_cache: IsolatedCache) -> None:
    active = hub.add_fault(Fault("hang", on="info"))
    with start_pull(isolated_cache, hub, NAME, "--json") as process:
        while not active.hits:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=0.05)
        process.send_signal(signal.SIGINT)
        code, out = finish(process)
    assert code == 130
    assert checked(out, code)["error"]["type"] == "interrupted"


def test_the_lock_of_a_killed_pull_blocks_neither_pull_nor_rm(hub: HubServer, isolated_cache: IsolatedCache) -> None:
    hub.limit_rate(MEBIBYTE)
    with start_pull(isolated_cache, hub, NAME, "--stream-json") as process:
        until_progress(process, 0.1 * SIZE)
        process.kill()
        finish(process)
    assert lock_files(isolated_cache) == ["mlxk2-pull.lock"]
    hub.limit_rate(None)
    env = hub_env(isolated_cache, hub)
    answer = call("rm", NAME, "--json", env=env)
    assert answer.data["action"] == "deleted", answer.stdout
    assert lock_files(isolated_cache) == []
    assert call("pull", NAME, "--json", env=env).code == 0
    assert_complete(isolated_cache, hub)
