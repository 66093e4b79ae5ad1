"""`push` where something goes wrong or in between: branches, refusals, lost replies, rivals, Ctrl-C. A branch is whole or as it was."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import cache_builder as build
from support.call import call
from support.hub_server import Fault, HubServer
from support.isolation import IsolatedCache
from support.processes import wait_until
from support.pulling import weights
from support.pushing import NAME, TOKEN, published, push, push_env, start_push, workspace, writes


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "store") as server:
        yield server


@pytest.fixture
def env(hub: HubServer, isolated_cache: IsolatedCache) -> dict[str, str]:
    return push_env(isolated_cache, hub)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Differs from what `published` puts on the Hub by one file."""
    return workspace(tmp_path / "model", {**build.chat_model(), "new.txt": b"new"})


def test_create_makes_the_branch_first_even_for_no_change(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    repo = published(hub)
    (folder / "new.txt").unlink()
    data = push(folder, "--create", "--branch", "dev", env=env).data
    assert (data["no_changes"], data["commit_sha"], data["created_repo"]) == (True, None, False)
    assert repo.head("dev") == repo.head("main")
    assert writes(hub)[0] == "branch"


def test_a_new_branch_gets_the_commit_and_main_stays(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    repo = published(hub)
    main = repo.head("main")
    data = push(folder, "--create", "--branch", "dev/one", env=env).data
    assert (data["commit_sha"], repo.head("main")) == (repo.head("dev/one"), main)
    assert data["change_summary"] == {"added": 1, "modified": 0, "deleted": 0}
    assert repo.about(repo.head("dev/one"))["parent"] == main


def test_a_new_repository_may_get_another_branch(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    data = push(folder, "--create", "--branch", "dev", env=env).data
    repo = hub.repo(NAME)
    assert (data["created_repo"], repo.private, set(repo.files("main"))) == (True, True, {".gitattributes"})
    assert data["change_summary"] == {"added": 6, "modified": 0, "deleted": 0}
    assert "new.txt" in repo.files("dev")


def test_without_create_nothing_is_made(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    answer = push(folder, env=env)
    assert (answer.code, answer.error["type"]) == (1, "repo_not_found")
    assert "--create" in answer.error["hint"]
    repo = published(hub)
    answer = push(folder, "--branch", "dev", env=env)
    assert (answer.code, answer.error["type"]) == (1, "upload_failed")
    assert "--create" in answer.error["hint"]
    assert (list(repo.branches), hub.repos(), writes(hub)) == (["main"], [NAME], [])


def test_a_revision_that_is_refused_once_is_tried_once_more(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    repo = published(hub)
    hub.add_fault(Fault("invalid_rev", times=1))
    data = push(folder, "--create", env=env).data
    assert data["commit_sha"] == repo.head("main")
    assert (hub.count(kind="preupload"), hub.count(kind="branch"), hub.count(kind="commit")) == (2, 1, 1)


def test_a_revision_that_is_refused_twice_is_the_end(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    published(hub)
    hub.add_fault(Fault("invalid_rev"))
    answer = push(folder, "--create", env=env)
    assert (answer.code, answer.error["type"]) == (1, "upload_failed")
    assert (hub.count(kind="preupload"), hub.count(kind="commit")) == (2, 0)
    hub.reset_counters()
    assert push(folder, env=env).error["type"] == "upload_failed"
    assert hub.count(kind="preupload") == 1


def test_a_branch_that_cannot_be_made(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    published(hub)
    hub.add_fault(Fault("status", on="branch", status=500, message="no branches today"))
    answer = push(folder, "--create", "--branch", "dev", env=env)
    assert (answer.code, answer.error["type"]) == (1, "branch_create_failed")
    assert "no branches today" in answer.error["message"]
    assert "commit" not in writes(hub)


def test_a_public_repository_gets_nothing(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    repo = hub.create_repo(NAME)
    for words in ([], ["--create"], ["--create", "--branch", "dev"]):
        answer = push(folder, *words, env=env)
        assert (answer.code, answer.error["type"]) == (1, "push_operation_failed")
        assert "public" in answer.error["message"]
    assert (writes(hub), repo.files("main")) == ([], {})


@pytest.mark.parametrize(
    ("user", "token"),
    [
        ({"user": "bob", "orgs": ("acme",)}, "hf_read"),
        ({"user": "eve", "write": True}, "hf_foreign"),
        (None, "hf_nobody"),
    ],
)
def test_a_token_that_may_not_write(
    hub: HubServer, folder: Path, env: dict[str, str], user: dict[str, object] | None, token: str
) -> None:
    repo = published(hub)
    if user is not None:
        hub.add_token(token, **user)  # type: ignore[arg-type]
    answer = push(folder, env={**env, "HF_TOKEN": token})
    # Whoever may not see a private repository is told that it is not there.
    assert (answer.code, answer.error["type"]) == (1, "repo_not_found" if token == "hf_foreign" else "auth_error")
    assert token not in answer.stdout + answer.stderr
    assert (writes(hub), "new.txt" in repo.files("main")) == ([], False)


def test_a_repository_that_may_not_be_made(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    answer = push(folder, "--create", env=env, name="stranger/m")
    assert (answer.code, answer.error["type"]) == (1, "auth_error")
    assert "stranger" in answer.error["message"]


def test_a_rival_that_was_faster_is_not_overwritten(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    repo = published(hub)
    (folder / "model.safetensors").write_bytes(weights(400_000))
    hub.limit_rate(100_000)

    def rival() -> None:
        wait_until(lambda: hub.count(kind="lfs") > 0, "it is about to upload")
        repo.commit({"rival.txt": b"first"})

    thread = threading.Thread(target=rival)
    thread.start()
    answer = push(folder, env=env)
    thread.join()
    assert (answer.code, answer.error["type"], answer.error["retryable"]) == (1, "upload_failed", True)
    assert "changed" in answer.error["message"]
    assert "rival.txt" in repo.files("main")
    assert "new.txt" not in repo.files("main")


@pytest.mark.parametrize("fault", ["vanish", "status", "garbage"])
def test_a_commit_whose_reply_is_lost_is_found(hub: HubServer, folder: Path, env: dict[str, str], fault: str) -> None:
    """The connection breaks after the commit was made, or the answer cannot be read."""
    repo = published(hub)
    kinds = {
        "vanish": Fault("vanish", on="commit"),
        "status": Fault("drop", on="commit", after=3),
        "garbage": Fault("drop", on="commit", after=0),
    }
    active = hub.add_fault(kinds[fault])
    answer = push(folder, env=env)
    assert active.hits == 1
    assert (answer.code, answer.data["commit_sha"]) == (0, repo.head("main")), answer.stdout
    assert answer.data["change_summary"] == {"added": 1, "modified": 0, "deleted": 0}
    assert hub.count(kind="commit") == 1


def test_a_commit_that_was_not_made_is_not_claimed(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    repo = published(hub)
    head = repo.head("main")
    hub.add_fault(Fault("status", on="commit", status=503))
    answer = push(folder, env=env)
    assert (answer.code, answer.error["type"], answer.error["retryable"]) == (1, "upload_failed", True)
    assert "HTTP 503" in answer.error["message"]
    assert repo.head("main") == head
    hub.clear_faults()
    assert push(folder, env=env).data["commit_sha"] == repo.head("main")


def test_a_commit_of_somebody_else_is_not_taken_for_ours(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    repo = published(hub)
    hub.add_fault(Fault("status", on="commit", status=503))

    def rival() -> None:
        wait_until(lambda: hub.count(kind="preupload") > 0, "it is about to commit")
        repo.commit({"rival.txt": b"x"})

    thread = threading.Thread(target=rival)
    thread.start()
    answer = push(folder, env=env)
    thread.join()
    assert (answer.code, answer.error["type"]) == (1, "upload_failed")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault("status", on="upload", status=403, message="no room for you"), "no room for you"),
        (Fault("status", on="lfs", status=403, message="quota exceeded"), "quota exceeded"),
        (Fault("status", on="commit", status=403, message="protected branch"), "protected branch"),
        (Fault("status", on="preupload", status=413, message="too many files"), "too many files"),
        (Fault("status", on="verify", status=422, message="another size"), "another size"),
        (Fault("body", on="preupload", body=b"[]"), "upload"),
        (Fault("body", on="lfs", body=b"{}"), "upload"),
        (Fault("body", on="commit", body=b'{"commitOid": 7, "commitUrl": "x"}'), "upload"),
    ],
)
def test_a_refusal_leaves_the_branch_as_it_was_and_says_why(
    hub: HubServer, folder: Path, env: dict[str, str], fault: Fault, words: str
) -> None:
    repo = published(hub)
    head = repo.head("main")
    (folder / "model.safetensors").write_bytes(weights(20_000))
    hub.add_fault(fault)
    answer = push(folder, env=env)
    assert (answer.code, answer.error["type"]) == (1, "upload_failed"), answer.stdout
    assert words in answer.error["message"]
    assert "X-Amz" not in answer.stdout
    assert repo.head("main") == head


@pytest.mark.parametrize("status", [500, 503])
def test_a_storage_that_is_late_once_is_asked_again(
    hub: HubServer, folder: Path, env: dict[str, str], status: int
) -> None:
    repo = published(hub)
    content = weights(50_000)
    (folder / "model.safetensors").write_bytes(content)
    active = hub.add_fault(Fault("status", on="upload", status=status, times=1))
    assert push(folder, env=env).code == 0
    assert active.hits == 1
    assert repo.read("main", "model.safetensors") == content


def test_a_model_card_that_the_hub_refuses_costs_no_upload(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    published(hub)
    (folder / "model.safetensors").write_bytes(weights(50_000))
    said = b'{"errors": [{"message": "\\"license\\" must be one of"}], "warnings": []}'
    hub.add_fault(Fault("body", on="yaml", status=400, body=said))
    answer = push(folder, env=env)
    assert (answer.code, answer.error["type"]) == (1, "upload_failed")
    assert '"license" must be one of' in answer.error["message"]
    assert (hub.count(kind="preupload"), hub.bytes_received()) == (0, 0)


def test_a_model_card_that_is_no_text(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    published(hub)
    (folder / "README.md").write_bytes(b"---\nlibrary_name: mlx\n---\n\xff\xfe")
    answer = push(folder, env=env)
    assert (answer.code, answer.error["type"]) == (1, "upload_failed")
    assert "README.md is not UTF-8" in answer.error["message"]


def test_a_gitignore_on_the_hub_drops_nothing_in_silence(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    """The server heeds a .gitignore of the repository, and the client says nothing of what was dropped."""
    repo = published(hub, {**build.chat_model(), ".gitignore": b"*.txt\n*.safetensors\n"})
    (folder / "model.safetensors").write_bytes(weights(20_000))
    data = push(folder, env=env).data
    assert data["change_summary"] == {"added": 1, "modified": 1, "deleted": 1}
    assert set(repo.files("main")) == {*build.chat_model(), "new.txt"}
    assert repo.read("main", "model.safetensors") == weights(20_000)


def test_a_file_that_takes_the_place_of_a_folder(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    repo = published(hub, {**build.chat_model(), "new.txt/inside": b"x"})
    data = push(folder, env=env).data
    assert data["change_summary"] == {"added": 1, "modified": 0, "deleted": 1}
    assert repo.read("main", "new.txt") == b"new"


def test_many_small_files_are_one_commit(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    repo = published(hub)
    build.model_folder(folder, {f"many/{n:04}.txt": b"%d" % n for n in range(600)})
    data = push(folder, env=env).data
    assert (data["uploaded_files_count"], hub.count(kind="commit"), hub.count(kind="preupload")) == (601, 1, 3)
    assert len(repo.files("main")) == 606


def test_a_server_that_repeats_the_token_does_not_get_it_into_an_answer(
    hub: HubServer, folder: Path, env: dict[str, str]
) -> None:
    published(hub)
    for kind in ("auth", "commit", "preupload"):
        hub.add_fault(Fault("status", on=kind, status=403, message=f"Bearer {TOKEN} is not enough"))
        for flag in ("--json", "--verbose"):
            answer = call("push", str(folder), NAME, "--private", flag, env=env)
            assert answer.code == 1
            assert TOKEN not in answer.stdout + answer.stderr
            assert "is not enough" in answer.stdout + answer.stderr
        hub.clear_faults()


def test_a_silent_hub_is_not_waited_for_for_ever(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    published(hub)
    hub.add_fault(Fault("hang", on="info", headers=False))
    start = time.monotonic()
    answer = push(folder, env={**env, "HF_HUB_ETAG_TIMEOUT": "0.3"})
    assert (answer.code, answer.error["type"]) == (1, "push_operation_failed")
    assert time.monotonic() - start < 30


def test_what_the_hub_client_logs_is_kept(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    published(hub)
    (folder / "model.safetensors").write_bytes(weights(20_000))
    hub.add_fault(Fault("status", on="upload", status=503, times=1))
    answer = push(folder, env=env)
    assert (answer.code, answer.stderr) == (0, "")
    assert answer.data["hf_logs"]
    assert not any("\n" in line or "X-Amz" in line or "sig=" in line for line in answer.data["hf_logs"])


@pytest.mark.parametrize("flag", ["--json", "--verbose"])
def test_ctrl_c_ends_it_and_nothing_is_committed(hub: HubServer, folder: Path, env: dict[str, str], flag: str) -> None:
    repo = published(hub)
    head = repo.head("main")
    (folder / "model.safetensors").write_bytes(weights(20_000_000))
    (folder / "more.safetensors").write_bytes(weights(20_000_000, seed=2))
    hub.limit_rate(1_000_000)
    process = start_push(folder, flag, env=env)
    while hub.count(kind="lfs") == 0:
        assert process.poll() is None
        time.sleep(0.01)
    pressed = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - pressed < 10
    assert process.returncode == 130, (out, err)
    assert "Traceback" not in err
    if flag == "--json":
        assert json.loads(out)["error"]["type"] == "interrupted"
    assert (repo.head("main"), hub.count(kind="commit")) == (head, 0)
    assert TOKEN not in out + err
