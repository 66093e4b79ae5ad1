"""A real multi-file model of which only some shards were fetched is unhealthy.

Copies an index and a few small shards of a model in the user's cache, named by MLXK2_USER_HF_HOME or HF_HOME and
MLXK2_ISSUE27_MODEL; the user's cache is only read. MLXK2_ISSUE27_INDEX_MODEL names another model for the index,
MLXK2_SUBSET_COUNT how many shards are copied, MLXK2_MIN_FREE_MB how much room must be left, and
MLXK2_BOOTSTRAP_INDEX=1 makes an index from the names of the shards where the model has none.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from support import cache_builder as build
from support.call import call
from support.isolation import USER_ENVIRON, IsolatedCache

pytestmark = pytest.mark.issue27

INDEX = "model.safetensors.index.json"
SHARD = re.compile(r"model-\d+-of-(\d+)\.safetensors")


def user_snapshot(variable: str) -> Path:
    """The newest snapshot, in the user's cache, of the model that a variable names; skips where there is none."""
    model = USER_ENVIRON.get(variable)
    home = USER_ENVIRON.get("MLXK2_USER_HF_HOME") or USER_ENVIRON.get("HF_HOME")
    if not model or not home:
        pytest.skip(f"set {variable} and MLXK2_USER_HF_HOME (or HF_HOME) to a sharded model of your cache")
    snapshots = Path(home) / "hub" / ("models--" + model.replace("/", "--")) / "snapshots"
    found = sorted(snapshots.glob("*"), key=lambda path: path.stat().st_mtime)
    if not found:
        pytest.skip(f"{model} has no snapshot in the hub folder of {home}")
    return found[-1]


def index_of(snapshot: Path) -> bytes:
    source = user_snapshot("MLXK2_ISSUE27_INDEX_MODEL") if "MLXK2_ISSUE27_INDEX_MODEL" in USER_ENVIRON else snapshot
    if (source / INDEX).is_file():
        return (source / INDEX).read_bytes()
    totals = {int(match[1]) for path in snapshot.iterdir() if (match := SHARD.fullmatch(path.name))}
    if USER_ENVIRON.get("MLXK2_BOOTSTRAP_INDEX") != "1" or len(totals) != 1:
        pytest.skip(f"{source.parent.parent.name} has no {INDEX}; set MLXK2_BOOTSTRAP_INDEX=1 to make one")
    (total,) = totals
    return json.dumps({"weight_map": {f"w{n}": build.shard_name(n, total) for n in range(1, total + 1)}}).encode()


@pytest.fixture
def partial_model(isolated_cache: IsolatedCache) -> tuple[IsolatedCache, list[str]]:
    """Copy the index and the smallest shards; returns the names of those that were left out."""
    source = user_snapshot("MLXK2_ISSUE27_MODEL")
    index = index_of(source)
    names = sorted(set(json.loads(index)["weight_map"].values()))
    if len(names) < 2:
        pytest.skip("the index names a single file; choose a sharded model")
    present = sorted((n for n in names if (source / n).is_file()), key=lambda n: (source / n).stat().st_size)
    wanted = int(USER_ENVIRON.get("MLXK2_SUBSET_COUNT", "1"))
    chosen = present[: min(wanted, len(names) - 1)]
    needed = sum((source / name).stat().st_size for name in chosen)
    reserve = int(USER_ENVIRON.get("MLXK2_MIN_FREE_MB", "512")) * 10**6
    if shutil.disk_usage(isolated_cache.root).free < needed + reserve:
        pytest.skip(f"not enough room for {needed} bytes of shards")
    files = {**build.chat_model(), INDEX: index}
    del files["model.safetensors"]
    snapshot = build.Repo(isolated_cache.hub, "org/partial").snapshot(files)
    for name in chosen:
        shutil.copyfile(source / name, snapshot / name)
    return isolated_cache, [name for name in names if name not in chosen]


def test_a_subset_of_the_shards_is_unhealthy(partial_model: tuple[IsolatedCache, list[str]]) -> None:
    cache, left_out = partial_model
    (entry,) = call("health", "org/partial", "--json", env=cache.env).data["unhealthy"]
    assert entry["reason"].startswith("Missing weight shards: " + left_out[0])
    assert "index_missing_shard" in [finding["code"] for finding in entry["findings"]]
