"""Every way in which `push` fails answers with the type that scripts match, without data, and the schema accepts it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import cache_builder as build
from support.call import VALIDATOR, call
from support.hub_server import Fault, HubServer
from support.isolation import IsolatedCache
from support.pushing import NAME, published, push_env, workspace

pytestmark = pytest.mark.spec

Setup = Callable[[HubServer], object]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "store") as server:
        yield server


def public(hub: HubServer) -> None:
    hub.create_repo(NAME)


def faulty(**fault: object) -> Setup:
    def set_up(hub: HubServer) -> None:
        published(hub)
        hub.add_fault(Fault("status", **fault))  # type: ignore[arg-type]

    return set_up


def nothing(hub: HubServer) -> None:
    """Leave the Hub empty."""


CASES: dict[str, tuple[Setup, list[str], dict[str, str], str, int]] = {
    "no --private": (nothing, [], {}, "CommandError", 2),
    "no such flag": (nothing, ["--private", "--what"], {}, "CommandError", 2),
    "no token": (nothing, ["--private"], {"HF_TOKEN": ""}, "auth_error", 1),
    "unknown token": (published, ["--private"], {"HF_TOKEN": "hf_who"}, "auth_error", 1),
    "offline": (nothing, ["--private"], {"HF_HUB_OFFLINE": "1"}, "offline", 1),
    "no repository": (nothing, ["--private"], {}, "repo_not_found", 1),
    "no branch": (published, ["--private", "--branch", "dev"], {}, "upload_failed", 1),
    "public": (public, ["--private"], {}, "push_operation_failed", 1),
    "strict": (published, ["--private", "--strict"], {}, "workspace_unhealthy", 1),
    "branch refused": (
        faulty(on="branch", status=500), ["--private", "--create", "--branch", "dev"], {}, "branch_create_failed", 1,
    ),
    "commit refused": (faulty(on="commit", status=409, message="no"), ["--private"], {}, "upload_failed", 1),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_each_failure_has_its_type(hub: HubServer, tmp_path: Path, isolated_cache: IsolatedCache, case: str) -> None:
    set_up, words, env, kind, code = CASES[case]
    environ = {**push_env(isolated_cache, hub), **env}
    set_up(hub)
    folder = workspace(tmp_path / "model")
    build.model_folder(folder, {".env": b"A=1", "new.txt": b"new"})
    answer = call("push", str(folder), NAME, *words, "--json", env=environ)
    assert (answer.code, answer.error["type"], answer.data) == (code, kind, None)
    assert answer.json["command"] == "push"
    assert answer.stderr == ""
    assert "\n" not in answer.error["message"]
    for secret in ("hf_write", "hf_who"):
        assert secret not in answer.stdout


def test_no_folder(hub: HubServer, tmp_path: Path, isolated_cache: IsolatedCache) -> None:
    env = push_env(isolated_cache, hub)
    answer = call("push", str(tmp_path / "gone"), NAME, "--private", "--json", env=env)
    assert (answer.code, answer.error["type"], hub.requests) == (1, "workspace_not_found", [])


def test_a_strict_failure_carries_the_health_of_the_folder(
    hub: HubServer, tmp_path: Path, isolated_cache: IsolatedCache
) -> None:
    env = push_env(isolated_cache, hub)
    folder = workspace(tmp_path / "model")
    (folder / "config.json").unlink()
    answer = call("push", str(folder), NAME, "--check-only", "--strict", "--json", env=env)
    detail = answer.error["detail"]
    health = {"$ref": "#/definitions/workspace_health", "definitions": VALIDATOR.schema["definitions"]}
    assert not list(VALIDATOR.evolve(schema=health).iter_errors(detail))
    assert (detail["healthy"], detail["config"]["exists"]) == (False, False)


def test_people_read_the_error_and_what_to_type(hub: HubServer, tmp_path: Path, isolated_cache: IsolatedCache) -> None:
    env = push_env(isolated_cache, hub)
    folder = workspace(tmp_path / "model")
    shown = call("push", str(folder), NAME, "--private", env=env)
    assert (shown.code, shown.stdout) == (1, "")
    assert [line.split(":", 1)[0] for line in shown.stderr.splitlines()] == ["error", "hint"]
