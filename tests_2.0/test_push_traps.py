"""push where it could hurt: rivals, lost replies, files that change meanwhile, secrets in odd places, a Hub that hangs."""

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
from support.pushing import NAME, TOKEN, published, push, push_env, start_push, workspace

SECRET = "hf_" + "aB3dE5fG7hJ9kL1mN2pQ4rS6tU8vW0xY"[:34]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "store") as server:
        yield server


@pytest.fixture
def env(isolated_cache: IsolatedCache, hub: HubServer) -> dict[str, str]:
    return push_env(isolated_cache, hub)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return workspace(tmp_path / "mine")


def test_a_push_of_nothing_does_not_claim_a_rivals_commit(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    repo = published(hub)
    assert push(folder, env=env).data["no_changes"] is True
    hub.reset_counters()
    hub.add_fault(Fault("slow", on="preupload", rate=200))

    def rival() -> None:
        wait_until(lambda: hub.count(kind="preupload") > 0, "it is asked")
        repo.commit({"rival.txt": b"x"})

    thread = threading.Thread(target=rival)
    thread.start()
    answer = push(folder, env=env)
    thread.join(timeout=60)
    assert answer.code == 0
    assert (answer.data["no_changes"], answer.data["commit_sha"], answer.data["uploaded_files_count"]) == (
        True,
        None,
        0,
    )
    assert "rival.txt" in repo.files("main")


def test_a_lost_reply_that_cannot_be_looked_up_is_told_as_what_it_is(
    hub: HubServer, folder: Path, env: dict[str, str]
) -> None:
    published(hub)
    (folder / "new.txt").write_bytes(b"x")
    hub.add_fault(Fault("vanish", on="commit"))
    hub.add_fault(Fault("status", on="refs", status=503, skip=1))
    answer = push(folder, env=env)
    assert (answer.code, answer.error["type"]) == (1, "upload_failed")
    assert "not known" in answer.error["message"]
    assert "--dry-run" in answer.error["hint"]


def test_a_file_that_changes_after_it_was_looked_at_is_not_sent(
    hub: HubServer, folder: Path, env: dict[str, str], tmp_path: Path
) -> None:
    repo = published(hub)
    head = repo.head("main")
    (folder / "notes.txt").write_bytes(b"harmless")
    outside = tmp_path / "outside.txt"
    outside.write_bytes(b"not yours")
    hub.add_fault(Fault("slow", on="refs", rate=60))

    def swap() -> None:
        wait_until(lambda: hub.count(kind="refs") > 0, "it is asked")
        (folder / "notes.txt").unlink()
        (folder / "notes.txt").symlink_to(outside)

    thread = threading.Thread(target=swap)
    thread.start()
    answer = push(folder, env=env)
    thread.join(timeout=60)
    assert (answer.code, answer.error["type"]) == (1, "push_operation_failed")
    assert "notes.txt changed" in answer.error["message"]
    assert repo.head("main") == head


def held_back(folder: Path, env: dict[str, str]) -> set[str]:
    data = call("push", str(folder), NAME, "--check-only", "--json", env=env).data
    return {a["path"] for a in data["workspace_health"]["anomalies"] if a["code"] == "secret_suspected"}


PLACES = {
    "escaped.json": json.dumps({"src": f"x\n{SECRET}"}).encode(),
    "tab.json": json.dumps({"src": f"\t{SECRET}"}).encode(),
    "variable.sh": f"export TOKEN_{SECRET}".encode(),
    "pickle.bin": b"\x80\x04\x95\0\0\0hub_token\x8c%" + SECRET.encode() + b"\x94",
    "utf16.txt": f"token {SECRET}".encode("utf-16"),
    "utf16-without-mark.txt": f"token {SECRET}".encode("utf-16-le"),
    "organisation.txt": b"api_org_" + SECRET[3:].encode(),
    "npm.txt": b"npm_aB3dE5fG7hJ9kL1mN2pQ4rS6tU8vW0xYaB3d",
    "aws.txt": b"aws_secret_access_key = wJalrXUtnFEMI7K7MDENG7bPxRfiCYzQ3pL9sT2v",
}
HARMLESS = {
    "slug.md": b"see sk-slovak-language-model-2024-v2 and sk-learn-contrib-2024-project-templates",
    "class.md": b"hf_BartForConditionalGenerationModelConfig",
    "placeholder.md": b"hf_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "words.json": b'{"sk-": 1, "hf_": 2}',
}


def test_secrets_are_found_where_programs_put_them_and_words_are_no_secrets(folder: Path, env: dict[str, str]) -> None:
    build.model_folder(folder, {**PLACES, **HARMLESS})
    assert held_back(folder, env) == set(PLACES)


def test_of_a_line_that_is_repeated_the_last_one_counts(folder: Path, env: dict[str, str], hub: HubServer) -> None:
    published(hub)
    (folder / "secret.txt").write_bytes(b"x")
    (folder / ".hfignore").write_bytes(b"*.txt\n!secret.txt\n*.txt\n")
    assert "secret.txt" not in push(folder, "--dry-run", env=env).data["added_files"]


@pytest.mark.parametrize("content", ["*.log\n".encode("utf-16"), b"[z-a]x\n"], ids=["UTF-16", "a range that is none"])
def test_an_ignore_file_that_cannot_be_followed_stops_the_push(
    content: bytes, folder: Path, env: dict[str, str], hub: HubServer
) -> None:
    repo = published(hub)
    head = repo.head("main")
    (folder / "a.log").write_bytes(b"x")
    (folder / ".hfignore").write_bytes(content)
    answer = push(folder, env=env)
    # Newer Pythons read such a range as one that fits nothing, which holds nothing back either.
    if answer.code == 0:
        assert content.startswith(b"[")
    else:
        assert (answer.error["type"], repo.head("main")) == ("push_operation_failed", head)


def test_names_in_any_script_are_pushed(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    repo = published(hub)
    names = {"全角\u3000.txt", "می\u200cخواهم.txt", "👩\u200d💻.txt", "a\u00a0b.txt"}
    build.model_folder(folder, dict.fromkeys(names, b"x"))
    assert push(folder, env=env).data["change_summary"]["added"] == len(names)
    assert names <= set(repo.files("main"))


def test_ctrl_c_is_not_kept_waiting_by_a_storage_that_hangs(hub: HubServer, folder: Path, env: dict[str, str]) -> None:
    repo = published(hub)
    head = repo.head("main")
    for number in range(3):
        (folder / f"model-{number}.safetensors").write_bytes(weights(200_000, seed=number))
    hub.add_fault(Fault("hang", on="upload", headers=False))
    process = start_push(folder, "--json", env=env)
    wait_until(lambda: hub.count(kind="upload") > 0, "it is asked")
    pressed = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - pressed < 5
    assert (process.returncode, json.loads(out)["error"]["type"]) == (130, "interrupted")
    assert "Traceback" not in err and TOKEN not in out + err
    assert repo.head("main") == head
