"""rm and the disk: nothing outside the hub is ever touched, nothing is deleted by guessing, failures say what failed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.call import Result, call
from support.isolation import IsolatedCache, above_permissions
from support.planting import COMMIT_A, COMMIT_B, plant


@pytest.fixture
def canary(isolated_cache: IsolatedCache) -> Path:
    """A folder beside the hub that must survive everything."""
    folder = isolated_cache.hf_home / "canary"
    folder.mkdir()
    (folder / "song").write_text("alive", encoding="ascii")
    return folder


def rm(cache: IsolatedCache, *words: str, **options: object) -> Result:
    return call("rm", *words, "--json", env=cache.env, **options)  # type: ignore[arg-type]


def alive(canary: Path) -> bool:
    return (canary / "song").read_text(encoding="ascii") == "alive"


@pytest.mark.parametrize(
    "text",
    [
        "..",
        "../canary",
        "./x",
        "a/../../canary",
        "models--..--canary",
        "models--../../canary",
        "~",
        "~/x",
        "org/..",
        "@",
        "a\0b",
    ],
)
def test_paths_are_refused(isolated_cache: IsolatedCache, canary: Path, text: str) -> None:
    plant(isolated_cache.hub, "org/m")
    for words in ([text], [text, "--force"], [f"{text}@{COMMIT_A}", "--force"], [f"org/m@{text}", "--force"]):
        answer = rm(isolated_cache, *words)
        assert answer.json["status"] == "error", words
    assert alive(canary)
    assert (isolated_cache.hub / "models--org--m" / "snapshots" / COMMIT_A / "config.json").exists()


def test_an_absolute_path_is_refused(isolated_cache: IsolatedCache, canary: Path) -> None:
    answer = rm(isolated_cache, str(canary), "--force")
    assert (answer.code, answer.error["type"]) == (2, "CommandError")
    assert alive(canary)


@pytest.mark.parametrize("place", ["repo", "snapshots", "snapshot", "file", "blobs", "refs", "locks"])
def test_links_to_the_outside_are_removed_not_followed(isolated_cache: IsolatedCache, canary: Path, place: str) -> None:
    hub = isolated_cache.hub
    repo = plant(hub, "org/m")
    links = {
        "repo": repo,
        "snapshots": repo / "snapshots",
        "snapshot": repo / "snapshots" / COMMIT_B,
        "file": repo / "snapshots" / COMMIT_A / "weights",
        "blobs": repo / "blobs",
        "refs": repo / "refs",
        "locks": hub / ".locks" / "models--org--m",
    }
    link = links[place]
    link.parent.mkdir(exist_ok=True)
    if link.is_dir():
        link.rename(isolated_cache.root / "moved")
    link.symlink_to(canary)
    (canary / "x.lock").write_text("", encoding="ascii")
    rm(isolated_cache, "org/m", "--force")
    assert alive(canary)
    assert (canary / "x.lock").exists()
    assert not os.path.lexists(repo)


@pytest.mark.parametrize("place", ["repo", "snapshots", "blobs", "refs"])
def test_one_revision_of_a_linked_model_is_refused(isolated_cache: IsolatedCache, canary: Path, place: str) -> None:
    repo = plant(isolated_cache.hub, "org/m", COMMIT_A, COMMIT_B)
    (repo / "blobs").mkdir(exist_ok=True)
    part = repo if place == "repo" else repo / place
    part.rename(canary / "moved")
    part.symlink_to(canary / "moved")
    before = sorted(path for path in canary.rglob("*"))
    answer = rm(isolated_cache, f"org/m@{COMMIT_B[:6]}", "--force")
    assert answer.error["type"] == "permission_denied"
    assert "is a link" in answer.error["message"]
    assert sorted(path for path in canary.rglob("*")) == before


def test_a_linked_folder_of_locks_is_left_alone(isolated_cache: IsolatedCache, canary: Path) -> None:
    plant(isolated_cache.hub, "org/m")
    (canary / "models--org--m").mkdir()
    (canary / "models--org--m" / "precious.lock").write_text("", encoding="ascii")
    (isolated_cache.hub / ".locks").symlink_to(canary)
    assert rm(isolated_cache, "org/m", "--force").data["action"] == "deleted"
    assert (canary / "models--org--m" / "precious.lock").exists()


def test_a_revision_whose_links_lead_outside_loses_only_the_links(isolated_cache: IsolatedCache, canary: Path) -> None:
    repo = plant(isolated_cache.hub, "org/m", COMMIT_A, COMMIT_B)
    (repo / "snapshots" / COMMIT_B / "weights").symlink_to(canary / "song")
    answer = rm(isolated_cache, f"org/m@{COMMIT_B[:6]}")
    assert answer.data["revisions"] == [COMMIT_B]
    assert alive(canary)
    assert [path.name for path in (repo / "snapshots").iterdir()] == [COMMIT_A]


def test_a_revision_takes_only_the_blobs_that_it_alone_uses(isolated_cache: IsolatedCache) -> None:
    repo = plant(isolated_cache.hub, "org/m", COMMIT_A, COMMIT_B)
    kept = (repo / "snapshots" / COMMIT_A / "config.json").resolve().name
    for blob, size in (("shared", 10), ("onlyb", 300)):
        (repo / "blobs" / blob).write_bytes(b"x" * size)
    (repo / "snapshots" / COMMIT_A / "w1").symlink_to("../../blobs/shared")
    (repo / "snapshots" / COMMIT_B / "w1").symlink_to("../../blobs/shared")
    (repo / "snapshots" / COMMIT_B / "w2").symlink_to("../../blobs/onlyb")
    (repo / "refs" / "dev").write_text(COMMIT_B, encoding="ascii")
    config = (repo / "snapshots" / COMMIT_B / "config.json").stat().st_size
    answer = rm(isolated_cache, "org/m@dev")
    assert answer.data["freed_bytes"] == 300 + config + len(COMMIT_B)  # the ref goes too
    assert answer.data["commit_hash"] == COMMIT_B
    assert sorted(path.name for path in (repo / "blobs").iterdir()) == sorted(["shared", kept])
    assert sorted(path.name for path in (repo / "refs").iterdir()) == ["main"]


def test_the_last_revision_takes_the_model_along(isolated_cache: IsolatedCache) -> None:
    repo = plant(isolated_cache.hub, "org/m")
    assert rm(isolated_cache, f"org/m@{COMMIT_A}").data["action"] == "deleted"
    assert not repo.exists()


def test_a_workspace_is_not_removed_and_called_by_its_name(isolated_cache: IsolatedCache, tmp_path: Path) -> None:
    (tmp_path / "spaces" / "mine").mkdir(parents=True)
    (tmp_path / "spaces" / "mine" / "config.json").write_text("{}", encoding="ascii")
    env = {**isolated_cache.env, "MLXK2_WORKSPACE_HOME": str(tmp_path / "spaces")}
    answer = call("rm", "mine", "--force", "--json", env=env)
    assert answer.error["type"] == "model_not_found"
    assert "is a workspace" in answer.error["message"]
    assert (tmp_path / "spaces" / "mine").is_dir()


def test_a_part_of_a_name_asks_first(isolated_cache: IsolatedCache) -> None:
    repo = plant(isolated_cache.hub, "org/model")
    planned = rm(isolated_cache, "mod", "--dry-run")
    assert (planned.data["action"], planned.data["requires_confirmation"]) == ("planned", True)
    answer = rm(isolated_cache, "mod")
    assert answer.code == 0
    assert (answer.data["action"], answer.data["requires_confirmation"]) == ("requires_confirmation", True)
    assert answer.data["matches"] == ["org/model"]
    assert repo.exists()
    assert rm(isolated_cache, "mod", "--force").data["action"] == "deleted"
    assert not repo.exists()


@pytest.mark.parametrize(
    ("typed", "gone"), [("y\n", True), ("yes\n", True), ("\n", False), ("n\n", False), ("", False)]
)
def test_a_terminal_is_asked(isolated_cache: IsolatedCache, typed: str, gone: bool) -> None:
    repo = plant(isolated_cache.hub, "org/model")
    answer = call("rm", "mod", env=isolated_cache.env, stdin=typed, terminal=True)
    assert answer.code == 0
    assert "Remove org/model" in answer.stderr
    assert repo.exists() is not gone


def test_several_matches_delete_nothing(isolated_cache: IsolatedCache) -> None:
    for name in ("org/a-model", "org/b-model"):
        plant(isolated_cache.hub, name)
    answer = rm(isolated_cache, "model", "--force")
    assert answer.error["type"] == "ambiguous_match"
    assert answer.data["action"] == "ambiguous"
    assert answer.data["matches"] == answer.error["matches"] == ["org/a-model", "org/b-model"]
    assert len(list(isolated_cache.hub.glob("models--org--*"))) == 2


def test_a_dry_run_deletes_nothing_and_counts_true(isolated_cache: IsolatedCache) -> None:
    repo = plant(isolated_cache.hub, "org/m", COMMIT_A, COMMIT_B)
    size = sum(path.stat().st_size for path in repo.rglob("*") if path.is_file() and not path.is_symlink())
    answer = rm(isolated_cache, "org/m", "--dry-run")
    assert (answer.data["action"], answer.data["freed_bytes"]) == ("planned", size)
    assert sorted(answer.data["revisions"]) == [COMMIT_A, COMMIT_B]
    assert repo.exists()
    assert rm(isolated_cache, "org/m").data["freed_bytes"] == size


def test_locks_of_this_model_stop_rm_and_are_cleaned_with_force(isolated_cache: IsolatedCache) -> None:
    repo = plant(isolated_cache.hub, "org/m")
    locks = isolated_cache.hub / ".locks"
    for owner in ("models--org--m", "models--org--m2"):
        (locks / owner).mkdir(parents=True)
        (locks / owner / "blob.lock").write_text("", encoding="ascii")
    answer = rm(isolated_cache, "org/m")
    assert answer.error["type"] == "locks_present"
    assert "--force" in answer.error["hint"]
    assert repo.exists()
    answer = rm(isolated_cache, "org/m", "--force")
    assert (answer.data["locks_detected"], answer.data["lock_files"]) == (True, ["blob.lock"])
    assert answer.data["lock_files_cleaned"] == 1
    assert not (locks / "models--org--m").exists()
    assert (locks / "models--org--m2" / "blob.lock").exists()


def test_strict_mode_wants_the_sentinel(isolated_cache: IsolatedCache) -> None:
    repo = plant(isolated_cache.hub, "org/m")
    (isolated_cache.hub / "models--TEST-CACHE-SENTINEL").rename(isolated_cache.root / "gone")
    assert rm(isolated_cache, "org/m", "--force").error["type"] == "permission_denied"
    assert repo.exists()


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_without_a_hub_there_is_nothing_to_remove(isolated_cache: IsolatedCache, kind: str) -> None:
    place = isolated_cache.root / "elsewhere"
    if kind == "file":
        place.write_text("", encoding="ascii")
    env = {**isolated_cache.env, "HF_HUB_CACHE": str(place)}
    assert call("rm", "org/m", "--json", env=env).error["type"] == "cache_not_found"
    assert call("list", "--json", env=env).data == {"models": [], "count": 0}
    assert call("health", "--json", env=env).data["summary"]["total"] == 0


@pytest.mark.parametrize("kind", ["file", "empty folder", "dangling link"])
def test_remains_of_a_model_can_be_removed(isolated_cache: IsolatedCache, kind: str) -> None:
    place = isolated_cache.hub / "models--org--broken"
    if kind == "file":
        place.write_text("x", encoding="ascii")
    elif kind == "dangling link":
        place.symlink_to("nowhere")
    else:
        place.mkdir()
    assert rm(isolated_cache, "org/broken").data["action"] == "deleted"
    assert not os.path.lexists(place)


@pytest.mark.skipif(above_permissions(), reason="the superuser may read everything")
def test_a_hub_that_cannot_be_read_is_not_an_empty_one(isolated_cache: IsolatedCache) -> None:
    plant(isolated_cache.hub, "org/m")
    isolated_cache.hub.chmod(0)
    try:
        types = [call(*words, "--json", env=isolated_cache.env).error["type"] for words in (["list"], ["health"])]
    finally:
        isolated_cache.hub.chmod(0o700)
    assert types == ["permission_denied", "health_check_failed"]


@pytest.mark.skipif(above_permissions(), reason="the superuser may delete everything")
def test_a_refusal_by_the_system_is_named(isolated_cache: IsolatedCache) -> None:
    repo = plant(isolated_cache.hub, "org/m")
    (repo / "snapshots" / COMMIT_A).chmod(0o500)
    try:
        answer = rm(isolated_cache, "org/m")
    finally:
        (repo / "snapshots" / COMMIT_A).chmod(0o700)
    assert answer.error["type"] == "permission_denied"
    assert "config.json" in answer.error["message"]
