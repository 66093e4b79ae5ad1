"""Every successful answer of `push` has the fields that its kind promises, and no others; the schema knows them all."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.call import VALIDATOR
from support.hub_server import HubServer
from support.isolation import IsolatedCache
from support.pushing import NAME, published, push, push_env, workspace

pytestmark = pytest.mark.spec

ALWAYS = {
    "repo_id", "branch", "commit_sha", "commit_url", "repo_url", "uploaded_files_count", "local_files_count", "no_changes",
    "created_repo", "message", "experimental", "disclaimer",
}  # fmt: skip
DRY_RUN = {
    "dry_run", "dry_run_summary", "would_create_repo", "would_create_branch", "added_files", "modified_files", "deleted_files",
}  # fmt: skip
HEALTH = {"workspace_health"}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "store") as server:
        yield server


@pytest.fixture
def answers(hub: HubServer, tmp_path: Path, isolated_cache: IsolatedCache) -> dict[str, dict[str, Any]]:
    """One answer of each kind, by name."""
    env = push_env(isolated_cache, hub)
    published(hub)
    folder = workspace(tmp_path / "model")
    (folder / ".env").write_text("A=1", encoding="ascii")
    found = {"no-op": push(folder, env=env), "checked": push(folder, "--check-only", env=env)}
    (folder / "new.txt").write_bytes(b"x")
    found["dry run"] = push(folder, "--dry-run", env=env)
    found["commit"] = push(folder, env=env)
    found["created"] = push(folder, "--create", "--branch", "dev", env=env, name="acme/other")
    assert {name: result.code for name, result in found.items()} == dict.fromkeys(found, 0)
    return {name: result.json or {} for name, result in found.items()}


def test_each_kind_of_answer_has_its_fields(answers: dict[str, dict[str, Any]]) -> None:
    fields = {name: set(answer["data"]) for name, answer in answers.items()}
    assert fields == {
        "no-op": ALWAYS | HEALTH | {"hf_logs"},
        "checked": ALWAYS | HEALTH,
        "dry run": ALWAYS | HEALTH | DRY_RUN,
        "commit": ALWAYS | HEALTH | {"change_summary"},
        "created": ALWAYS | HEALTH | {"change_summary"},
    }


def test_what_is_true_of_every_answer(answers: dict[str, dict[str, Any]]) -> None:
    for answer in answers.values():
        data = answer["data"]
        assert (answer["command"], data["experimental"]) == ("push", True)
        assert data["message"]
        assert data["disclaimer"]
        assert (data["commit_sha"] is None) == (data["commit_url"] is None) == (data["uploaded_files_count"] == 0)
        assert data["uploaded_files_count"] == sum(data.get("change_summary", {}).values())
        assert data["repo_url"].endswith(f"/{data['repo_id']}")
        assert data["workspace_health"]["files_count"] == data["local_files_count"]
    assert answers["created"]["data"]["created_repo"] is True
    assert answers["no-op"]["data"]["repo_id"] == NAME


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("experimental",), False),
        (("commit_sha",), "not hex"),
        (("uploaded_files_count",), -1),
        (("no_changes",), None),
        (("surprise",), 1),
        (("hf_logs",), "a line"),
        (("added_files",), ["x"] * 21),
        (("dry_run",), False),
        (("workspace_health", "surprise"), 1),
        (("workspace_health", "anomalies"), [{"severity": "fatal", "code": "x", "message": "x"}]),
        (("change_summary",), {"added": 1}),
    ],
)
def test_the_schema_would_notice(answers: dict[str, dict[str, Any]], path: tuple[str, ...], value: object) -> None:
    wrong = copy.deepcopy(answers["commit"])
    assert not list(VALIDATOR.iter_errors(wrong))
    place = wrong["data"]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert list(VALIDATOR.iter_errors(wrong))


def test_unknown_numbers_stay_legal(answers: dict[str, dict[str, Any]]) -> None:
    """Where the remote gives no hashes, how many files are modified is null."""
    answer = copy.deepcopy(answers["dry run"])
    answer["data"]["dry_run_summary"]["modified"] = None
    assert not list(VALIDATOR.iter_errors(answer))
