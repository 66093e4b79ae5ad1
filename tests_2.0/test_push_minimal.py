"""`push` on a Hub that is well: one commit that makes the branch equal to the folder, or none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import cache_builder as build
from support.call import call
from support.hub_server import HubServer, Repo
from support.isolation import IsolatedCache
from support.pulling import weights
from support.pushing import NAME, TOKEN, published, push, push_env, start_push, workspace, writes

NOTHING_NEW = "No files have been modified since last commit. Skipping to prevent empty commit."


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


def there(repo: Repo, revision: str = "main") -> dict[str, bytes]:
    """What a branch holds, but for the attributes that the Hub makes."""
    return {path: repo.read(revision, path) for path in repo.files(revision) if path != ".gitattributes"}


def here(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_new_private_repository_gets_everything_in_one_commit(
    hub: HubServer, folder: Path, env: dict[str, str]
) -> None:
    build.model_folder(
        folder, {"extra/notes.txt": b"in a folder\n", "empty.txt": b"", "model.safetensors": weights(300_000)}
    )
    answer = push(folder, "--create", env=env)
    repo, data = hub.repo(NAME), answer.data
    assert (answer.code, answer.stderr) == (0, "")
    assert (repo.private, there(repo)) == (True, here(folder))
    head = repo.head("main")
    assert (data["commit_sha"], data["commit_url"]) == (head, f"{hub.endpoint}/{NAME}/commit/{head}")
    assert (data["repo_url"], data["created_repo"], data["no_changes"]) == (f"{hub.endpoint}/{NAME}", True, False)
    assert data["change_summary"] == {"added": 7, "modified": 0, "deleted": 0}
    assert data["uploaded_files_count"] == data["local_files_count"] == 7
    assert "7 added, 0 modified, 0 deleted" in data["message"]
    assert data["workspace_health"]["healthy"] is True
    assert data["disclaimer"]
    assert hub.count(kind="commit") == 1


def test_the_branch_becomes_what_the_folder_is(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    repo = published(hub, {**build.chat_model(), ".gitattributes": b"mine", "old/a.txt": b"x", "old/b.txt": b"x"})
    (folder / "config.json").write_bytes(build.as_json({**build.CONFIG, "changed": 1}))
    (folder / "new.txt").write_bytes(b"new")
    data = push(folder, env=env).data
    assert (there(repo), repo.read("main", ".gitattributes")) == (here(folder), b"mine")
    assert data["change_summary"] == {"added": 1, "modified": 1, "deleted": 2}
    assert data["uploaded_files_count"] == 4
    assert (data["created_repo"], hub.count(kind="commit"), hub.empty_commits) == (False, 1, 0)


def test_the_dry_run_told_the_truth(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    published(hub, {**build.chat_model(), "old.txt": b"x"})
    build.model_folder(folder, {"a.txt": b"a", "config.json": build.as_json({**build.CONFIG, "b": 1})})
    told = push(folder, "--dry-run", env=env).data["dry_run_summary"]
    assert push(folder, env=env).data["change_summary"] == told
    assert push(folder, "--dry-run", env=env).data["no_changes"] is True


def test_no_change_is_no_commit_and_the_clients_own_line_says_so(
    hub: HubServer, folder: Path, env: dict[str, str]
) -> None:
    repo = published(hub)
    head = repo.head("main")
    answer = push(folder, env=env)
    data = answer.data
    assert (answer.code, answer.stderr, data["no_changes"], data["uploaded_files_count"]) == (0, "", True, 0)
    assert (data["commit_sha"], data["commit_url"], "change_summary" in data) == (None, None, False)
    assert (data["message"], data["hf_logs"]) == (NOTHING_NEW, [NOTHING_NEW])
    assert (repo.head("main"), hub.count(kind="commit"), hub.empty_commits) == (head, 0, 0)
    assert hub.bytes_received() == 0


def test_a_process_of_its_own_prints_one_document_and_nothing_else(
    hub: HubServer, folder: Path, env: dict[str, str]
) -> None:
    for words, expected in ((["--create"], "commit_sha"), ([], "no_changes")):
        process = start_push(folder, "--json", *words, env=env)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
        data = json.loads(out)["data"]
        assert data[expected]
        assert expected != "no_changes" or data["hf_logs"] == [NOTHING_NEW]


def test_only_what_changed_is_sent_again(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    (folder / "model.safetensors").write_bytes(weights(400_000))
    assert push(folder, "--create", env=env).code == 0
    hub.reset_counters()
    (folder / "README.md").write_bytes(b"---\nlibrary_name: mlx\n---\nnew\n")
    data = push(folder, env=env).data
    assert data["change_summary"] == {"added": 0, "modified": 1, "deleted": 0}
    assert hub.bytes_received() == 0


def test_the_message_and_the_parent_of_the_commit(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    repo = published(hub)
    before = repo.head("main")
    (folder / "a.txt").write_bytes(b"a")
    push(folder, env=env)
    assert repo.about(repo.head("main"))["message"] == "mlx-knife push"
    assert repo.about(repo.head("main"))["parent"] == before
    (folder / "a.txt").write_bytes(b"b")
    push(folder, "--commit", "new weights", env=env)
    assert repo.about(repo.head("main"))["message"] == "new weights"


def test_secrets_and_ignored_files_are_not_sent(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    build.model_folder(
        folder, {".env": b"A=1", "key.pem": b"x", "a.log": b"x", ".hfignore": b"*.log\n", ".git/config": b"x"}
    )
    (folder / "outside.txt").symlink_to("/etc/hostname")
    data = push(folder, "--create", env=env).data
    assert set(there(hub.repo(NAME))) == set(build.chat_model())
    found = {anomaly["path"]: anomaly["code"] for anomaly in data["workspace_health"]["anomalies"]}
    assert found == {".env": "secret_suspected", "key.pem": "secret_suspected", "outside.txt": "link_left_out"}


def test_a_link_inside_is_sent_as_content(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    (folder / "copy.json").symlink_to("config.json")
    push(folder, "--create", env=env)
    assert hub.repo(NAME).read("main", "copy.json") == (folder / "config.json").read_bytes()


def test_strict_sends_nothing_of_a_folder_with_a_warning(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    published(hub)
    (folder / ".env").write_text("A=1", encoding="ascii")
    answer = push(folder, "--strict", env=env)
    assert (answer.code, answer.error["type"], answer.data) == (1, "workspace_unhealthy", None)
    assert answer.error["detail"]["anomalies"][0]["code"] == "secret_suspected"
    assert hub.requests == []
    (folder / ".env").unlink()
    assert push(folder, "--strict", env=env).code == 0


def test_an_unhealthy_folder_is_pushed_with_its_anomalies_unless_strict(
    hub: HubServer, folder: Path, env: dict[str, str]
) -> None:
    (folder / "tokenizer.json").unlink()
    data = push(folder, "--create", env=env).data
    assert data["workspace_health"]["healthy"] is False
    assert "tokenizer.json" not in hub.repo(NAME).files("main")


def test_people_read_one_line(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    def shown(*words: str) -> str:
        answer = call("push", str(folder), NAME, "--private", *words, env=env)
        assert (answer.code, answer.stderr) == (0, "")
        return answer.stdout

    first = shown("--create")
    head = hub.repo(NAME).head("main")
    assert first == f"push (experimental): {NAME}@main — commit {head[:7]} (+5 ~0 -0)\n"
    assert shown() == f"push (experimental): {NAME}@main — no changes\n"
    (folder / "a.txt").write_bytes(b"a")
    second = shown("--verbose")
    head = hub.repo(NAME).head("main")
    line = f"push (experimental): {NAME}@main — commit {head[:7]} (+1 ~0 -0) {hub.endpoint}/{NAME}/commit/{head}\n"
    assert second == line


def test_progress_on_a_terminal_and_none_with_quiet(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    (folder / "model.safetensors").write_bytes(weights(3_000_000))
    words = ["push", str(folder), NAME, "--private", "--create"]
    assert call(*words, env=env, terminal=True, width=80).stderr != ""
    (folder / "model.safetensors").write_bytes(weights(3_000_000, seed=2))
    assert call(*words, "--quiet", env=env, terminal=True, width=80).stderr == ""


def test_the_token_is_sent_to_the_hub_and_to_nobody_else(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    answer = push(folder, "--create", env=env)
    assert TOKEN not in answer.stdout + answer.stderr
    port = int(hub.endpoint.rpartition(":")[2])
    assert all(request.authorized for request in hub.requests if request.port == port)
    assert not any(request.authorized for request in hub.requests if request.port != port)
    assert "upload" in writes(hub)


def test_a_model_goes_up_and_comes_down_the_same(
    hub: HubServer, folder: Path, env: dict[str, str], isolated_cache: IsolatedCache
) -> None:
    (folder / "model.safetensors").write_bytes(weights(500_000))
    assert push(folder, "--create", env=env).code == 0
    pulled = call("pull", NAME, "--json", env=env)
    assert pulled.code == 0, pulled.stdout
    commit = pulled.data["commit_hash"]
    snapshot = isolated_cache.hub / build.repo_folder(NAME) / "snapshots" / commit
    assert {name: (snapshot / name).read_bytes() for name in here(folder)} == here(folder)
