"""clone: a plain folder of the user's own, out of the cache or through pull; complete or absent, and the cache as it was."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import cache_builder as build
from support.call import Result, call
from support.isolation import IsolatedCache
from support.planting import COMMIT_A, COMMIT_B

from mlxk2.store.origin import SENTINEL_FILE

NAME = "org/model"
FILES = {**build.chat_model(), "extra/deep/notes.txt": b"in a folder\n", "extra/empty": b""}
ALPHA = {"MLXK2_ENABLE_ALPHA_FEATURES": "1"}


@pytest.fixture
def env(isolated_cache: IsolatedCache) -> dict[str, str]:
    """Nothing here may open a socket."""
    return {**isolated_cache.env, **ALPHA, "HF_HUB_OFFLINE": "1"}


@pytest.fixture
def repo(isolated_cache: IsolatedCache) -> build.Repo:
    """A sound model in the cache."""
    repo = build.Repo(isolated_cache.hub, NAME)
    repo.snapshot(FILES, COMMIT_A)
    return repo


def clone(env: dict[str, str], target: Path, *words: str, model: str = NAME) -> Result:
    return call("clone", model, str(target), *words, "--json", env=env)


def content(folder: Path) -> dict[str, bytes]:
    """Every file but the sentinel; a link fails the test."""
    found = {}
    for path in folder.rglob("*"):
        assert not path.is_symlink()
        if path.is_file() and path.name != SENTINEL_FILE:
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def traces(folder: Path) -> dict[str, Any]:
    """What would tell that something below a folder was touched; reading may change no more than the time of access."""
    found = {}
    for path in (folder, *folder.rglob("*")):
        state = os.lstat(path)
        link = os.readlink(path) if path.is_symlink() else None
        found[str(path)] = (state.st_mode, state.st_size, state.st_mtime_ns, state.st_ino, state.st_nlink, link)
    return found


def shares_blocks(folder: Path) -> bool:
    """Tell whether the file system below `folder` can give a file's blocks to another one."""
    if sys.platform == "darwin":
        return "apfs" in subprocess.run(["mount"], capture_output=True, text=True, check=True).stdout
    (folder / "probe-1").write_bytes(b"x" * 8192)
    with open(folder / "probe-1", "rb") as source, open(folder / "probe-2", "wb") as target:
        try:
            fcntl.ioctl(target, 0x40049409, source.fileno())
        except OSError:
            return False
    return True


def assert_failed(answer: Result, error: str, status: str, target: Path) -> None:
    assert answer.code == 1
    assert answer.error["type"] == error
    assert answer.data["clone_status"] == status
    assert answer.data["message"] == answer.error["message"]
    assert answer.data["target_dir"] == os.path.realpath(target)
    assert not target.is_dir() or SENTINEL_FILE not in os.listdir(target)
    assert leftovers(target.parent) == []


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if ".partial-" in path.name]


# From the cache


def test_a_cached_model_becomes_a_plain_folder_without_a_socket(
    repo: build.Repo, env: dict[str, str], tmp_path: Path
) -> None:
    answer = clone(env, tmp_path / "mine")
    assert answer.code == 0
    assert answer.data == {
        "model": NAME,
        "clone_status": "success",
        "message": answer.data["message"],
        "target_dir": os.path.realpath(tmp_path / "mine"),
        "health_check": True,
        "commit_hash": COMMIT_A,
        "copy_method": answer.data["copy_method"],
        "files": len(FILES),
        "bytes": sum(map(len, FILES.values())),
    }
    assert content(tmp_path / "mine") == FILES


def test_the_copy_is_writable_and_the_cache_is_as_it_was(repo: build.Repo, env: dict[str, str], tmp_path: Path) -> None:
    for blob in (repo.path / "blobs").iterdir():
        blob.chmod(0o444)
        os.utime(blob, ns=(1, 1_000_000_007))
    before = traces(repo.path)
    assert clone(env, tmp_path / "mine").code == 0
    for path in (tmp_path / "mine").rglob("*"):
        assert path.is_dir() or path.stat().st_mode & stat.S_IWUSR
        if path.is_file():
            path.write_bytes(b"edited")
    assert traces(repo.path) == before


def test_the_revision_that_is_asked_for_is_the_one(repo: build.Repo, env: dict[str, str], tmp_path: Path) -> None:
    other = {**FILES, "README.md": b"of another branch\n"}
    repo.snapshot(other, COMMIT_B, ref="dev")
    asked = (("@dev", ()), ("", ("--branch", "dev")), (f"@{COMMIT_B[:6]}", ()), ("@dev", ("--branch", "dev")))
    for number, (at, words) in enumerate(asked):
        answer = clone(env, tmp_path / str(number), *words, model=NAME + at)
        assert answer.data["commit_hash"] == COMMIT_B
        assert content(tmp_path / str(number)) == other
    assert clone(env, tmp_path / "main").data["commit_hash"] == COMMIT_A


def test_a_bare_name_is_looked_up_as_everywhere(isolated_cache: IsolatedCache, env: dict[str, str]) -> None:
    for name in ("mlx-community/Tiny-4bit", "org/Some-Tiny-8bit"):
        build.Repo(isolated_cache.hub, name).snapshot(FILES, COMMIT_A)
    root = isolated_cache.root
    assert clone(env, root / "a", model="Tiny-4bit").data["model"] == "mlx-community/Tiny-4bit"
    assert clone(env, root / "b", model="tiny-8").data["model"] == "org/Some-Tiny-8bit"
    answer = clone(env, root / "c", model="tiny")
    assert_failed(answer, "CloneOperationError", "error", root / "c")
    assert answer.error["matches"] == ["mlx-community/Tiny-4bit", "org/Some-Tiny-8bit"]


def test_blobs_of_the_cache_wide_store_are_the_models_own(
    isolated_cache: IsolatedCache, env: dict[str, str], tmp_path: Path
) -> None:
    repo, weights = build.Repo(isolated_cache.hub, NAME), FILES["model.safetensors"]
    snapshot = repo.snapshot(FILES, COMMIT_A)
    blob = (snapshot / "model.safetensors").resolve()
    payload = isolated_cache.hub / "blobs" / blob.name[:2] / blob.name
    payload.parent.mkdir(parents=True)
    blob.rename(payload)
    repo.link(blob, payload)
    assert clone(env, tmp_path / "mine").code == 0
    assert (tmp_path / "mine" / "model.safetensors").read_bytes() == weights


def test_a_snapshot_of_plain_files_is_copied_too(
    isolated_cache: IsolatedCache, env: dict[str, str], tmp_path: Path
) -> None:
    repo = build.Repo(isolated_cache.hub, NAME)
    build.model_folder(repo.path / "snapshots" / COMMIT_A, FILES)
    assert clone(env, tmp_path / "mine").code == 0
    assert content(tmp_path / "mine") == FILES


def test_a_repository_that_lies_on_another_volume_is_copied(
    repo: build.Repo, env: dict[str, str], tmp_path: Path
) -> None:
    repo.path.rename(tmp_path / "elsewhere")
    repo.path.symlink_to(tmp_path / "elsewhere")
    assert clone(env, tmp_path / "mine").code == 0
    assert content(tmp_path / "mine") == FILES


def test_blocks_are_shared_where_the_file_system_can(repo: build.Repo, env: dict[str, str], tmp_path: Path) -> None:
    shared = "clonefile" if sys.platform == "darwin" else "reflink"
    expected = shared if shares_blocks(tmp_path) else "copy"
    answer = clone(env, tmp_path / "mine")
    assert answer.data["copy_method"] == expected
    assert expected in answer.data["message"]
    if expected == "copy":
        pytest.skip("the file system of the tests cannot share blocks; --basetemp on Btrfs, XFS or APFS tests it")
    weights = tmp_path / "mine" / "model.safetensors"
    with weights.open("r+b") as file:
        file.write(b"mine now")
    blob = repo.path / "snapshots" / COMMIT_A / "model.safetensors"
    assert blob.read_bytes() == FILES["model.safetensors"]


# Words


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((f"{NAME}@dev", "out", "--branch", "main"), "two revisions: '@dev' and '--branch main'"),
        (("./folder", "out"), "'./folder' is a folder"),
        (("/tmp", "out"), "'/tmp' is a folder"),
        ((NAME, ""), "the target has no name"),
        ((NAME, "out", "--branch", ""), "--branch has no name"),
        ((NAME,), "target_dir"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(words: tuple[str, ...], said: str, env: dict[str, str]) -> None:
    answer = call("clone", *words, "--json", env=env)
    assert (answer.code, answer.error["type"], answer.data) == (2, "CommandError", None)
    assert said in answer.error["message"]


@pytest.mark.parametrize("model", ["", "../../etc", "a" * 97, f"{NAME}@../x", "org//model", "org/model@"])
def test_what_is_no_name_is_refused_before_any_file_is_touched(model: str, env: dict[str, str], tmp_path: Path) -> None:
    answer = clone(env, tmp_path / "mine", model=model)
    assert answer.error["type"] in ("CloneOperationError", "CommandError")
    assert not (tmp_path / "mine").exists()


def test_people_read_one_line(repo: build.Repo, env: dict[str, str], tmp_path: Path) -> None:
    place = os.path.realpath(tmp_path)
    told = call("clone", NAME, str(tmp_path / "a"), env=env)
    assert (told.stdout, told.stderr) == (f"clone: {NAME} → {place}/a (✓ health)\n", "")
    told = call("clone", NAME, str(tmp_path / "b"), "--no-health-check", env=env)
    assert told.stdout == f"clone: {NAME} → {place}/b (health not checked)\n"
    told = call("clone", NAME, str(tmp_path / "c"), "--quiet", env=env, terminal=True)
    assert (told.code, told.stdout, told.stderr) == (0, "", "")
    told = call("clone", NAME, str(tmp_path / "c"), "--quiet", env=env)
    assert (told.code, told.stdout) == (1, "")
    assert "is not empty" in told.stderr


def test_progress_is_drawn_where_a_person_looks(repo: build.Repo, env: dict[str, str], tmp_path: Path) -> None:
    told = call("clone", NAME, str(tmp_path / "a"), env=env, terminal=True, width=200)
    assert NAME in told.stderr
    assert told.stdout.startswith(f"clone: {NAME} → ")


# Targets


def test_an_empty_folder_is_filled_and_missing_parents_are_made(
    repo: build.Repo, env: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    assert clone(env, tmp_path / "empty").code == 0
    assert clone(env, tmp_path / "a" / "b" / "c").code == 0
    assert content(tmp_path / "empty") == content(tmp_path / "a" / "b" / "c") == FILES


def test_a_target_in_use_is_refused_and_stays(repo: build.Repo, env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_bytes(b"keep")
    (tmp_path / "file").write_bytes(b"keep")
    for name in ("full", "file", "file/below"):
        assert_failed(clone(env, tmp_path / name), "InvalidTargetError", "filesystem_error", tmp_path / name)
    assert (tmp_path / "full" / "mine").read_bytes() == (tmp_path / "file").read_bytes() == b"keep"


def test_the_cache_is_no_place_for_a_clone(
    repo: build.Repo, isolated_cache: IsolatedCache, env: dict[str, str]
) -> None:
    before = traces(isolated_cache.hub)
    for target in (isolated_cache.hub / "mine", repo.path / "snapshots" / COMMIT_B, isolated_cache.root / "new"):
        moved = {**env, "HF_HUB_CACHE": str(isolated_cache.root / "new" / "hub")} if target.name == "new" else env
        answer = clone(moved, target)
        assert_failed(answer, "InvalidTargetError", "filesystem_error", target)
        assert "model cache" in answer.error["message"]
    assert traces(isolated_cache.hub) == before


def test_too_little_space_is_told_before_the_first_byte(repo: build.Repo, env: dict[str, str], tmp_path: Path) -> None:
    if shares_blocks(tmp_path):
        pytest.skip("blocks are shared here, so no space is needed")
    blob = (repo.path / "snapshots" / COMMIT_A / "model.safetensors").resolve()
    build.grow_sparse(blob, 15 * 2**40)
    answer = clone(env, tmp_path / "mine", "--no-health-check")
    assert_failed(answer, "FilesystemError", "filesystem_error", tmp_path / "mine")
    assert answer.error["detail"]["type"] == "insufficient_space"
    figures = answer.error["detail"]["detail"]
    assert figures["needed_bytes"] > 15 * 2**40 > figures["free_bytes"]
    assert leftovers(tmp_path) == []


# What a cache may hold


def plant_secret(tmp_path: Path) -> Path:
    secret = tmp_path / "secret.txt"
    secret.write_bytes(b"not yours")
    return secret


def link_out(repo: build.Repo, snapshot: Path, tmp_path: Path) -> None:
    (snapshot / "evil.txt").symlink_to(plant_secret(tmp_path))


def link_out_through_a_blob(repo: build.Repo, snapshot: Path, tmp_path: Path) -> None:
    (repo.path / "blobs" / ("e" * 64)).symlink_to(plant_secret(tmp_path))
    repo.link(snapshot / "evil.txt", repo.path / "blobs" / ("e" * 64))


def link_to_another_model(repo: build.Repo, snapshot: Path, tmp_path: Path) -> None:
    other = build.Repo(repo.hub, "org/private")
    repo.link(snapshot / "evil.txt", other.blob(b"of another model"))


def link_to_a_ref(repo: build.Repo, snapshot: Path, tmp_path: Path) -> None:
    repo.link(snapshot / "evil.txt", repo.path / "refs" / "main")


def link_to_a_folder(repo: build.Repo, snapshot: Path, tmp_path: Path) -> None:
    plant_secret(tmp_path)
    (snapshot / "evil").symlink_to(tmp_path)


def dangling_link(repo: build.Repo, snapshot: Path, tmp_path: Path) -> None:
    build.dangle(snapshot / "README.md")


def loop_of_links(repo: build.Repo, snapshot: Path, tmp_path: Path) -> None:
    build.loop(snapshot / "README.md")


def pipe(repo: build.Repo, snapshot: Path, tmp_path: Path) -> None:
    build.fifo(snapshot / "README.md")


def pipe_as_a_blob(repo: build.Repo, snapshot: Path, tmp_path: Path) -> None:
    build.fifo((snapshot / "README.md").resolve())


def name_with_an_escape(repo: build.Repo, snapshot: Path, tmp_path: Path) -> None:
    (snapshot / "a\x1b[2Jb").write_bytes(b"x")


def name_of_two_lines(repo: build.Repo, snapshot: Path, tmp_path: Path) -> None:
    (snapshot / "a\nb").write_bytes(b"x")


def name_with_a_backslash(repo: build.Repo, snapshot: Path, tmp_path: Path) -> None:
    (snapshot / "..\\..\\a").write_bytes(b"x")


def snapshots_elsewhere(repo: build.Repo, snapshot: Path, tmp_path: Path) -> None:
    build.model_folder(tmp_path / "snapshots" / COMMIT_A, FILES)
    snapshot.parent.rename(tmp_path / "away")
    snapshot.parent.symlink_to(tmp_path / "snapshots")


@pytest.mark.parametrize(
    "harm",
    [
        link_out, link_out_through_a_blob, link_to_another_model, link_to_a_ref, link_to_a_folder, dangling_link, loop_of_links,
        pipe, pipe_as_a_blob, name_with_an_escape, name_of_two_lines, name_with_a_backslash, snapshots_elsewhere,
    ],
)  # fmt: skip
def test_what_is_not_the_models_own_is_never_copied(
    harm: Any, repo: build.Repo, env: dict[str, str], tmp_path: Path
) -> None:
    harm(repo, repo.path / "snapshots" / COMMIT_A, tmp_path)
    answer = clone(env, tmp_path / "mine", "--no-health-check")
    assert_failed(answer, "CloneOperationError", "error", tmp_path / "mine")
    assert answer.error["message"].startswith(f"{NAME} cannot be copied: ")
    assert answer.error["message"].isprintable()
    assert NAME in answer.error["hint"]
    assert not (tmp_path / "mine").exists()
    assert leftovers(tmp_path) == []


def test_a_broken_model_is_refused_offline_unless_it_is_wanted_so(
    repo: build.Repo, env: dict[str, str], tmp_path: Path
) -> None:
    (repo.path / "snapshots" / COMMIT_A / "config.json").unlink()
    answer = clone(env, tmp_path / "mine")
    assert_failed(answer, "ModelUnhealthyError", "health_check_failed", tmp_path / "mine")
    assert "config.json missing" in answer.error["message"]
    answer = clone(env, tmp_path / "mine", "--no-health-check")
    assert (answer.code, answer.data["health_check"]) == (0, False)
    assert content(tmp_path / "mine") == {name: text for name, text in FILES.items() if name != "config.json"}
