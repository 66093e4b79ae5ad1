"""`pull` on a Hub that is well: the cache layout, revisions, repairs, plans, and that others see the same model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import cache_builder as build
from support.call import call
from support.hub_server import HubServer
from support.isolation import IsolatedCache
from support.planting import plant
from support.pulling import (
    MEBIBYTE,
    blob_folder,
    dangling_links,
    hub_env,
    lock_files,
    model_files,
    publish,
    published_files,
    snapshot_files,
    weights,
    wrong_blobs,
)

NAME = "org/tiny"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "store") as server:
        yield server


@pytest.fixture
def env(hub: HubServer, isolated_cache: IsolatedCache) -> dict[str, str]:
    return hub_env(isolated_cache, hub)


def pulled(name: str, *words: str, env: dict[str, str]) -> dict[str, object]:
    answer = call("pull", name, *words, "--json", env=env)
    assert answer.code == 0, answer.stdout
    return answer.data  # type: ignore[no-any-return]


def test_a_model_arrives_whole_in_the_layout_of_the_cache(
    hub: HubServer, isolated_cache: IsolatedCache, env: dict[str, str]
) -> None:
    repo = publish(hub)
    data = pulled(NAME, env=env)
    assert (data["download_status"], data["commit_hash"]) == ("success", repo.head())
    assert data["bytes_total"] == data["bytes_downloaded"] == sum(map(len, published_files(repo).values()))
    assert (data["bytes_reused"], data["expanded_name"]) == (0, None)
    root = isolated_cache.hub / "models--org--tiny"
    assert sorted(path.name for path in root.iterdir()) == ["blobs", "refs", "snapshots"]
    assert (root / "refs" / "main").read_text(encoding="ascii") == repo.head()
    links = [path for path in (root / "snapshots").rglob("*") if not path.is_dir()]
    assert all(path.is_symlink() and not os.path.isabs(os.readlink(path)) for path in links)
    assert snapshot_files(isolated_cache, NAME, repo.head()) == published_files(repo)
    assert (wrong_blobs(isolated_cache), dangling_links(isolated_cache), lock_files(isolated_cache)) == ([], [], [])
    assert call("health", NAME, "--deep", "--json", env=env).data["summary"]["healthy_count"] == 1


def test_a_complete_model_costs_no_request(hub: HubServer, env: dict[str, str]) -> None:
    repo = publish(hub)
    pulled(NAME, env=env)
    hub.reset_counters()
    for name in (NAME, f"{NAME}@main", f"{NAME}@{repo.head()}", f"{NAME}@{repo.head()[:8]}"):
        assert pulled(name, env=env)["download_status"] == "already_exists"
    assert hub.requests == []


HF = """
import os, sys
from huggingface_hub import snapshot_download
print(snapshot_download(sys.argv[1], revision=sys.argv[2], local_files_only=sys.argv[3] == "local"))
"""


def hf_download(name: str, revision: str, env: dict[str, str], *, local: bool) -> Path:
    """What `hf download` does, in a process of its own, without Xet."""
    own = {**os.environ, **env, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", HF, name, revision, "local" if local else "network"]
    done = subprocess.run(command, env=own, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip().splitlines()[-1])


def test_the_hub_client_finds_what_was_pulled_and_fetches_nothing(hub: HubServer, env: dict[str, str]) -> None:
    repo = publish(hub)
    pulled(NAME, env=env)
    hub.reset_counters()
    for local in (True, False):
        folder = hf_download(NAME, "main", env, local=local)
        assert (folder / "config.json").read_bytes() == repo.read("main", "config.json")
        assert hub.bytes_sent(NAME) == 0


def test_what_the_hub_client_fetched_is_found(hub: HubServer, env: dict[str, str]) -> None:
    publish(hub)
    hf_download(NAME, "main", env, local=False)
    hub.reset_counters()
    assert pulled(NAME, env=env)["download_status"] == "already_exists"
    assert hub.requests == []
    assert pulled(NAME, "--force", env=env)["bytes_downloaded"] == 0


def test_branch_tag_and_commit_are_honoured(hub: HubServer, isolated_cache: IsolatedCache, env: dict[str, str]) -> None:
    repo = publish(hub)
    old = repo.head()
    repo.tag("v1", old)
    repo.branch("dev", old)
    new = repo.commit({"config.json": build.as_json({**build.CONFIG, "hidden_size": 128})}, branch="dev")
    for text, words, commit in (
        (f"{NAME}@v1", (), old),
        (NAME, ("--revision", "dev"), new),
        (f"{NAME}@{new}", (), new),
    ):
        assert pulled(text, *words, env=env)["commit_hash"] == commit
    refs = isolated_cache.hub / "models--org--tiny" / "refs"
    assert {path.name: path.read_text(encoding="ascii") for path in refs.iterdir()} == {"v1": old, "dev": new}
    assert call("show", f"{NAME}@dev", "--json", env=env).data["model"]["hash"] == new
    assert call("pull", f"{NAME}@v1", "--revision", "dev", "--json", env=env).error["type"] == "CommandError"


def test_the_start_of_a_commit_is_enough(hub: HubServer, env: dict[str, str]) -> None:
    repo = publish(hub)
    old = repo.head()
    repo.commit({"README.md": b"# newer\n"})
    assert pulled(f"{NAME}@{old[:7]}", env=env)["commit_hash"] == old
    assert call("pull", f"{NAME}@deadbee", "--json", env=env).error["type"] == "revision_not_found"


def test_a_newer_commit_comes_with_force_and_fetches_only_what_changed(
    hub: HubServer, isolated_cache: IsolatedCache, env: dict[str, str]
) -> None:
    repo = publish(hub)
    pulled(NAME, env=env)
    new = repo.commit({"README.md": b"---\nlibrary_name: mlx\n---\n# newer\n"})
    hub.reset_counters()
    data = pulled(NAME, "--force", env=env)
    assert (data["commit_hash"], data["bytes_downloaded"]) == (new, len(repo.read("main", "README.md")))
    assert hub.bytes_sent(NAME) == data["bytes_downloaded"]
    assert call("show", NAME, "--json", env=env).data["model"]["hash"] == new


def break_it(way: str, snapshot: Path) -> None:
    weights_file = snapshot / "model.safetensors"
    if way == "missing blob":
        weights_file.resolve().unlink()
    elif way == "missing link":
        weights_file.unlink()
    elif way == "cut blob":
        os.truncate(weights_file.resolve(), 1000)
    elif way == "another content of the same length":
        path = weights_file.resolve()
        path.write_bytes(b"\xff" * path.stat().st_size)
    elif way == "LFS pointer":
        build.replace(weights_file, build.lfs_pointer(b"x"))
    elif way == "folder in its place":
        build.folder_instead(weights_file)
    elif way == "mark of a broken download":
        (snapshot / "model.safetensors.incomplete").write_bytes(b"half")
    elif way == "link to elsewhere":
        weights_file.unlink()
        weights_file.symlink_to("/nowhere/at/all")


@pytest.mark.parametrize(
    "way",
    [
        "missing blob",
        "missing link",
        "cut blob",
        "another content of the same length",
        "LFS pointer",
        "folder in its place",
        "mark of a broken download",
        "link to elsewhere",
    ],
)
def test_a_broken_model_is_repaired_with_what_is_missing_or_wrong(
    way: str, hub: HubServer, isolated_cache: IsolatedCache, env: dict[str, str]
) -> None:
    repo = publish(hub)
    pulled(NAME, env=env)
    break_it(way, isolated_cache.hub / "models--org--tiny" / "snapshots" / repo.head())
    assert call("health", NAME, "--json", env=env).data["summary"]["unhealthy_count"] == 1
    hub.reset_counters()
    assert pulled(NAME, env=env)["download_status"] == "success"
    assert snapshot_files(isolated_cache, NAME, repo.head()) == published_files(repo)
    assert wrong_blobs(isolated_cache) == []
    content_is_gone = way in ("missing blob", "cut blob", "another content of the same length")
    assert hub.bytes_sent(NAME) == (len(repo.read("main", "model.safetensors")) if content_is_gone else 0)
    assert call("health", NAME, "--deep", "--json", env=env).data["summary"]["healthy_count"] == 1


def test_force_finds_a_wrong_byte_that_health_does_not(
    hub: HubServer, isolated_cache: IsolatedCache, env: dict[str, str]
) -> None:
    repo = publish(hub)
    pulled(NAME, env=env)
    blob = (isolated_cache.hub / "models--org--tiny" / "snapshots" / repo.head() / "model.safetensors").resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    assert pulled(NAME, env=env)["download_status"] == "already_exists"
    assert pulled(NAME, "--force", env=env)["bytes_downloaded"] == len(content)
    assert wrong_blobs(isolated_cache) == []


def test_a_bare_name_goes_to_mlx_community_and_says_so(hub: HubServer, env: dict[str, str]) -> None:
    publish(hub, "mlx-community/tiny")
    data = pulled("tiny", env=env)
    assert data["model"] == data["expanded_name"] == "mlx-community/tiny"


def test_a_full_name_does_not_stop_at_a_longer_one(
    hub: HubServer, isolated_cache: IsolatedCache, env: dict[str, str]
) -> None:
    publish(hub)
    build.Repo(isolated_cache.hub, "org/tiny-Instruct").snapshot(build.chat_model())
    assert pulled(NAME, env=env)["download_status"] == "success"


def test_a_bare_name_may_be_part_of_a_cached_one(
    hub: HubServer, isolated_cache: IsolatedCache, env: dict[str, str]
) -> None:
    build.Repo(isolated_cache.hub, "org/tiny-Instruct").snapshot(build.chat_model())
    data = pulled("tiny", env=env)
    assert (data["download_status"], data["expanded_name"]) == ("already_exists", "org/tiny-Instruct")
    plant(isolated_cache.hub, "org/tiny-base")
    answer = call("pull", "tiny", "--json", env=env)
    assert (answer.error["type"], answer.error["matches"]) == (
        "ambiguous_match",
        ["org/tiny-Instruct", "org/tiny-base"],
    )
    assert "mlx-community/tiny" in answer.error["hint"]


def test_include_and_exclude_choose_files_and_the_rest_comes_later(
    hub: HubServer, isolated_cache: IsolatedCache, env: dict[str, str]
) -> None:
    repo = publish(hub)
    data = pulled(NAME, "--include", "*.json", "--include", "extra/", "--exclude", "tokenizer*", env=env)
    assert set(snapshot_files(isolated_cache, NAME, repo.head())) == {"config.json", "extra/notes.txt"}
    assert "left out" in str(data["message"])
    assert pulled(NAME, env=env)["bytes_reused"] == data["bytes_total"]
    assert snapshot_files(isolated_cache, NAME, repo.head()) == published_files(repo)
    answer = call("pull", NAME, "--force", "--include", "*.nothing", "--json", env=env)
    assert (answer.code, answer.error["type"]) == (2, "CommandError")


def test_dry_run_tells_all_and_changes_nothing(
    hub: HubServer, isolated_cache: IsolatedCache, env: dict[str, str]
) -> None:
    repo = publish(hub)
    before = sorted(isolated_cache.hub.rglob("*"))
    data = pulled(NAME, "--dry-run", env=env)
    assert sorted(isolated_cache.hub.rglob("*")) == before
    assert (data["download_status"], data["bytes_downloaded"]) == ("planned", 0)
    assert {file["name"]: file["size_bytes"] for file in data["files"]} == {
        path: len(content) for path, content in published_files(repo).items()
    }
    assert {file["action"] for file in data["files"]} == {"download"}
    preview = data["preview"]
    assert (preview["framework"], preview["architecture"], preview["runtime_compatible"]) == ("MLX", "llama", True)
    assert preview["memory"]["weights_bytes"] > 2.9 * MEBIBYTE
    assert hub.bytes_sent(NAME, "*.safetensors") <= 256 * 1024
    pulled(NAME, env=env)
    shown = call("show", NAME, "--json", env=env).data
    for key in ("framework", "model_type", "runtime_compatible", "reason", "parameters", "context_length"):
        assert preview[key] == shown["model"][key]
    assert preview["memory"] == shown["memory"]


def test_a_model_that_will_not_run_is_told_before_and_after(hub: HubServer, env: dict[str, str]) -> None:
    files = model_files()
    files["config.json"] = build.as_json({**build.CONFIG, "model_type": "novel"})
    publish(hub, files=files)
    reason = "model_type 'novel' not supported by mlx-lm"
    assert pulled(NAME, "--dry-run", env=env)["preview"]["reason"] == reason
    human = call("pull", NAME, env=env)
    assert (human.code, human.stderr) == (0, f"warning: {NAME} will not run here: {reason}\n")
    assert pulled(NAME, "--force", env=env)["runtime_warning"] == reason


def test_what_is_no_sound_model_on_the_hub_is_an_error_with_its_files_kept(
    hub: HubServer, isolated_cache: IsolatedCache, env: dict[str, str]
) -> None:
    files = model_files()
    del files["config.json"]
    repo = publish(hub, files=files)
    answer = call("pull", NAME, "--json", env=env)
    assert (answer.code, answer.error["type"]) == (1, "model_corrupted")
    assert "config.json missing" in answer.error["message"]
    assert (answer.data["download_status"], answer.data["commit_hash"]) == ("corrupted", repo.head())
    assert snapshot_files(isolated_cache, NAME, repo.head()) == published_files(repo)


def test_an_interrupted_update_leaves_the_old_revision_in_charge(
    hub: HubServer, isolated_cache: IsolatedCache, env: dict[str, str]
) -> None:
    from support.hub_server import Fault

    repo = publish(hub)
    old = repo.head()
    pulled(NAME, env=env)
    repo.commit({"model.safetensors": weights(4 * MEBIBYTE, seed=2)})
    hub.add_fault(Fault("flip", path="*.safetensors", after=2_000_000))
    assert call("pull", NAME, "--force", "--json", env=env).error["type"] == "download_failed"
    assert call("show", NAME, "--json", env=env).data["model"]["hash"] == old
    assert call("health", NAME, "--deep", "--json", env=env).data["summary"]["healthy_count"] == 1


def test_two_names_of_one_content_are_fetched_once(
    hub: HubServer, isolated_cache: IsolatedCache, env: dict[str, str]
) -> None:
    files = model_files()
    files["copy.safetensors"] = files["model.safetensors"]
    repo = publish(hub, files=files)
    data = pulled(NAME, env=env)
    assert (
        hub.bytes_sent(NAME) == data["bytes_total"] == sum(len(c) for n, c in files.items() if n != "copy.safetensors")
    )
    assert snapshot_files(isolated_cache, NAME, repo.head()) == published_files(repo)


def test_empty_files_and_deep_folders_arrive(
    hub: HubServer, isolated_cache: IsolatedCache, env: dict[str, str]
) -> None:
    files = {
        **model_files(),
        "empty.txt": b"",
        "a/b/c/d.txt": b"deep",
        "with space & percent%20.txt": b"odd",
        "ünï.txt": b"u",
    }
    repo = publish(hub, files=files)
    pulled(NAME, env=env)
    assert snapshot_files(isolated_cache, NAME, repo.head()) == published_files(repo)


def test_many_small_files_arrive(hub: HubServer, isolated_cache: IsolatedCache, env: dict[str, str]) -> None:
    files = {**model_files(), **{f"part/{number}.txt": f"number {number}".encode() for number in range(300)}}
    repo = publish(hub, files=files)
    hub.page_size = 50
    pulled(NAME, env=env)
    assert snapshot_files(isolated_cache, NAME, repo.head()) == published_files(repo)


def test_a_snapshot_folder_that_is_a_link_is_not_written_through(
    hub: HubServer, isolated_cache: IsolatedCache, env: dict[str, str], tmp_path: Path
) -> None:
    repo = publish(hub)
    outside = tmp_path / "outside"
    outside.mkdir()
    snapshot = isolated_cache.hub / "models--org--tiny" / "snapshots" / repo.head()
    snapshot.mkdir(parents=True)
    (snapshot / "extra").symlink_to(outside)
    answer = call("pull", NAME, "--json", env=env)
    assert (answer.code, answer.error["type"]) == (1, "permission_denied")
    assert list(outside.iterdir()) == []


def test_a_partial_file_that_was_tampered_with_is_noticed(
    hub: HubServer, isolated_cache: IsolatedCache, env: dict[str, str]
) -> None:
    repo = publish(hub)
    digest = repo.files("main")["model.safetensors"].sha256
    folder = blob_folder(isolated_cache, NAME)
    folder.mkdir(parents=True)
    size = len(repo.read("main", "model.safetensors"))
    for junk in (b"junk", b"\0" * size, os.urandom(size + 40)):
        (folder / f"{digest}.mlxk2.incomplete").write_bytes(junk)
        pulled(NAME, "--force", env=env)
        assert wrong_blobs(isolated_cache) == []
        (folder / digest).unlink()


def test_people_read_one_line(hub: HubServer, env: dict[str, str]) -> None:
    publish(hub)
    answer = call("pull", NAME, env=env)
    assert answer.stdout.startswith("pull: org/tiny — 6 files complete and verified, ")
    assert (answer.code, answer.stderr) == (0, "")
    assert call("pull", NAME, env=env).stdout == "pull: org/tiny — already in the cache, and healthy\n"
    plan = call("pull", NAME, "--dry-run", "--force", env=env).stdout
    assert "would fetch 0 of 6 files" in plan
    assert json.loads(call("pull", NAME, "--json", env=env).stdout)["data"]["message"]
