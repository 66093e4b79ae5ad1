"""`push --dry-run`: true numbers by hash, what would be made, and nothing changed on the Hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import cache_builder as build
from support.call import call
from support.hub_server import Fault, HubServer
from support.isolation import IsolatedCache
from support.pushing import NAME, published, push, push_env, workspace, writes


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "store") as server:
        yield server


@pytest.fixture
def env(hub: HubServer, isolated_cache: IsolatedCache) -> dict[str, str]:
    return push_env(isolated_cache, hub)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return workspace(tmp_path / "model")


def numbers(added: int, modified: int, deleted: int) -> dict[str, int]:
    return {"added": added, "modified": modified, "deleted": deleted}


def test_equal_content_is_no_change(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    published(hub)
    answer = push(folder, "--dry-run", env=env)
    data = answer.data
    assert (answer.code, answer.stderr, data["dry_run"], data["no_changes"]) == (0, "", True, True)
    assert data["dry_run_summary"] == numbers(0, 0, 0)
    assert data["added_files"] == data["modified_files"] == data["deleted_files"] == []
    assert (data["would_create_repo"], data["would_create_branch"]) == (False, False)
    assert (data["commit_sha"], data["commit_url"], data["uploaded_files_count"]) == (None, None, 0)
    assert (data["created_repo"], data["experimental"], data["local_files_count"]) == (False, True, 5)
    assert "change_summary" not in data


def test_added_modified_and_deleted_are_true(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    published(hub, {**build.chat_model(), "old/notes.txt": b"x", ".gitattributes": b"*.bin filter=lfs\n"})
    (folder / "config.json").write_bytes(build.as_json({**build.CONFIG, "changed": True}))
    build.model_folder(folder, {"new/a.txt": b"a", "b.txt": b"b"})
    data = push(folder, "--dry-run", env=env).data
    assert data["dry_run_summary"] == numbers(2, 1, 1)
    assert data["added_files"] == ["b.txt", "new/a.txt"]
    assert (data["modified_files"], data["deleted_files"]) == (["config.json"], ["old/notes.txt"])
    assert data["no_changes"] is False


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_content_of_the_same_size_is_compared_by_hash(
    hub: HubServer, folder: Path, env: dict[str, str], name: str
) -> None:
    """One of them is a large file to the Hub, known by its sha256, the other one is known by git's sha1."""
    repo = published(hub)
    assert repo.files("main")[name].lfs is (name == "model.safetensors")
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    data = push(folder, "--dry-run", env=env).data
    assert (data["dry_run_summary"], data["modified_files"]) == (numbers(0, 1, 0), [name])


def test_nothing_is_changed_and_nothing_is_sent(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    repo = published(hub)
    head, branches = repo.head("main"), repo.branches
    (folder / "new.txt").write_bytes(b"new")
    for words in ([], ["--create"], ["--create", "--branch", "dev"], ["--strict"]):
        assert push(folder, "--dry-run", *words, env=env).code == 0
    assert push(folder, "--dry-run", "--create", env=env, name="acme/other").code == 0
    assert writes(hub) == []
    assert (repo.head("main"), repo.branches, hub.repos()) == (head, branches, [NAME])
    assert hub.bytes_received() == 0


def test_at_most_twenty_names_are_listed_and_all_are_counted(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    published(hub, {**build.chat_model(), **{f"old/{n:02}": b"x" for n in range(25)}})
    build.model_folder(folder, {f"new/{n:02}": b"x" for n in range(30)})
    data = push(folder, "--dry-run", env=env).data
    assert data["dry_run_summary"] == numbers(30, 0, 25)
    assert data["added_files"] == [f"new/{n:02}" for n in range(20)]
    assert len(data["deleted_files"]) == 20


def test_a_tree_of_several_pages_is_read_whole(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    hub.page_size = 3
    published(hub)
    assert push(folder, "--dry-run", env=env).data["no_changes"] is True


def test_a_missing_repository_with_create_is_all_new(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    data = push(folder, "--dry-run", "--create", env=env).data
    assert (data["would_create_repo"], data["would_create_branch"]) == (True, False)
    assert data["dry_run_summary"] == numbers(5, 0, 0)
    data = push(folder, "--dry-run", "--create", "--branch", "dev", env=env).data
    assert (data["would_create_repo"], data["would_create_branch"]) == (True, True)


def test_a_missing_branch_with_create_is_compared_with_main(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    published(hub, {**build.chat_model(), "old.txt": b"x"})
    data = push(folder, "--dry-run", "--create", "--branch", "dev", env=env).data
    assert (data["would_create_repo"], data["would_create_branch"]) == (False, True)
    assert (data["dry_run_summary"], data["branch"]) == (numbers(0, 0, 1), "dev")


def test_another_branch_is_compared_with_itself(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    repo = published(hub)
    repo.branch("dev", repo.head("main"))
    repo.commit({"only-there.txt": b"x"}, branch="dev")
    assert push(folder, "--dry-run", "--branch", "dev", env=env).data["deleted_files"] == ["only-there.txt"]
    assert push(folder, "--dry-run", env=env).data["no_changes"] is True


def test_what_is_missing_without_create_fails_as_the_push_would(
    hub: HubServer, folder: Path, env: dict[str, str]
) -> None:
    answer = push(folder, "--dry-run", env=env)
    assert (answer.code, answer.error["type"], answer.data) == (1, "repo_not_found", None)
    assert "--create" in answer.error["hint"]
    repo = published(hub)
    repo.tag("v1", repo.head("main"))
    for name in ("dev", "v1", repo.head("main")[:8]):
        answer = push(folder, "--dry-run", "--branch", name, env=env)
        assert (answer.code, answer.error["type"]) == (1, "upload_failed"), name
        assert "--create" in answer.error["hint"]


def test_a_public_repository_is_refused(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    hub.create_repo(NAME)
    answer = push(folder, "--dry-run", env=env)
    assert (answer.code, answer.error["type"]) == (1, "push_operation_failed")
    assert "public" in answer.error["message"]


def test_a_token_that_may_only_read_is_refused(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    published(hub)
    hub.add_token("hf_read", user="bob", orgs=("acme",))
    answer = push(folder, "--dry-run", env={**env, "HF_TOKEN": "hf_read"})
    assert (answer.code, answer.error["type"]) == (1, "auth_error")
    assert "hf_read" not in answer.stdout


def test_a_hub_that_does_not_know_the_question_about_rights_is_asked_no_more(
    hub: HubServer, folder: Path, env: dict[str, str]
) -> None:
    published(hub)
    hub.add_fault(Fault("status", on="auth", status=404))
    assert push(folder, "--dry-run", env=env).data["no_changes"] is True


def test_what_is_held_back_is_not_deleted_on_the_hub(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    published(hub, {**build.chat_model(), ".env": b"A=0", "notes.txt": b"old", "gone.txt": b"x", "ring/a": b"x"})
    (folder / ".env").write_text("A=1", encoding="ascii")
    (folder / "notes.txt").write_text("-----BEGIN " + "PRIVATE KEY-----", encoding="ascii")
    (folder / "ring").symlink_to(folder)
    assert push(folder, "--dry-run", env=env).data["deleted_files"] == ["gone.txt"]


def test_attributes_stay_and_so_does_what_the_hub_client_cannot_touch(
    hub: HubServer, folder: Path, env: dict[str, str]
) -> None:
    there = {".gitattributes": b"x", ".cache/huggingface/x": b"x", "a/.cache/x": b"x", "a/.gitattributes": b"x"}
    published(hub, {**build.chat_model(), **there})
    assert push(folder, "--dry-run", env=env).data["deleted_files"] == ["a/.gitattributes"]


def test_what_is_ignored_goes_from_the_hub(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    """The branch becomes what the folder is after the ignores."""
    published(hub, {**build.chat_model(), "a.log": b"x", ".DS_Store": b"x"})
    build.model_folder(folder, {"a.log": b"x", ".hfignore": b"*.log\n"})
    assert push(folder, "--dry-run", env=env).data["deleted_files"] == [".DS_Store", "a.log"]


def test_an_empty_folder_is_not_a_wish_to_delete_everything(
    hub: HubServer, tmp_path: Path, env: dict[str, str]
) -> None:
    repo = published(hub)
    (tmp_path / "empty").mkdir()
    for words in (["--dry-run"], []):
        answer = push(tmp_path / "empty", *words, env=env)
        assert (answer.code, answer.error["type"]) == (1, "push_operation_failed")
    assert len(repo.files("main")) == 5


def test_a_hub_that_is_late_once_is_asked_again(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    published(hub)
    for kind in ("info", "refs", "tree"):
        hub.add_fault(Fault("status", on=kind, status=503, times=1))
    assert push(folder, "--dry-run", env=env).data["no_changes"] is True


def test_a_hub_that_lists_impossible_files_is_refused(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    published(hub)
    evil = b'[{"type": "file", "path": "../x", "oid": "' + b"0" * 40 + b'", "size": 1}]'
    hub.add_fault(Fault("body", on="tree", body=evil))
    answer = push(folder, "--dry-run", env=env)
    assert (answer.code, answer.error["type"]) == (1, "push_operation_failed")


def test_nobody_at_home_is_told_as_such(folder: Path, env: dict[str, str]) -> None:
    answer = push(folder, "--dry-run", env={**env, "HF_ENDPOINT": "http://127.0.0.1:9"})
    assert (answer.code, answer.error["type"], answer.error["retryable"]) == (1, "push_operation_failed", True)
    assert "connection refused" in answer.error["message"]


def test_people_read_the_numbers(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    def line(*words: str, name: str = NAME) -> str:
        return call("push", str(folder), name, "--private", "--dry-run", *words, env=env).stdout

    published(hub, {**build.chat_model(), "old.txt": b"x"})
    (folder / "new.txt").write_bytes(b"x")
    start = f"push (experimental): {NAME}@main — dry-run: +1 ~0 -1"
    assert line() == f"{start}\n"
    assert line("--verbose") == f"{start} {hub.endpoint}/{NAME}\n  + new.txt\n  - old.txt\n"
    (folder / "new.txt").unlink()
    (folder / "old.txt").write_bytes(b"x")
    assert line() == f"push (experimental): {NAME}@main — dry-run: no changes\n"
    shown = line("--create", "--branch", "dev", name="acme/other").splitlines()
    assert shown == [
        "push (experimental): acme/other@dev — dry-run: +6 ~0 -0",
        "push (experimental): acme/other@dev — dry-run: would create the private repository",
        "push (experimental): acme/other@dev — dry-run: would create the branch",
    ]
