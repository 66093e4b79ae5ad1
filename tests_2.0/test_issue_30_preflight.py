"""Before a byte lands in the cache `pull` knows whether it may have the files; a no is told apart from a not-now."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.call import call
from support.hub_server import Fault, HubServer
from support.isolation import IsolatedCache
from support.pulling import IMPATIENT, hub_env, lock_files, model_files


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "store") as server:
        for name, options in (("org/open", {}), ("org/gated", {"gated": "manual"}), ("org/private", {"private": True})):
            server.create_repo(name, **options).commit(model_files(2000))
        server.add_token("hf_nobody", user="nobody")
        server.add_token("hf_member", user="member", orgs=("org",), gated_access=("org/gated",))
        yield server


def cached(cache: IsolatedCache) -> list[str]:
    """What a failed pull left: nothing but the sentinel may be there."""
    return sorted(path.name for path in cache.hub.iterdir() if path.name != "models--TEST-CACHE-SENTINEL")


# Token, model, and the type of the error.
REFUSALS = [
    (None, "org/gated", "access_denied"),
    ("hf_nobody", "org/gated", "access_denied"),
    (None, "org/private", "access_denied"),
    ("hf_nobody", "org/private", "model_not_found"),
    ("hf_wrong", "org/open", "access_denied"),
    ("hf_nobody", "org/missing", "model_not_found"),
    (None, "org/open@no-such-branch", "revision_not_found"),
    (None, f"org/open@{'0' * 40}", "revision_not_found"),
]


@pytest.mark.parametrize(("token", "name", "kind"), REFUSALS)
def test_a_refusal_is_typed_and_leaves_nothing(
    token: str | None, name: str, kind: str, hub: HubServer, isolated_cache: IsolatedCache
) -> None:
    env = hub_env(isolated_cache, hub, **({"HF_TOKEN": token} if token else {}))
    for words in ((), ("--dry-run",)):
        answer = call("pull", name, *words, "--json", env=env)
        assert (answer.code, answer.error["type"]) == (1, kind)
        assert answer.error["hint"]
        assert answer.data["download_status"] == ("access_denied" if kind == "access_denied" else "failed")
        assert token is None or token not in answer.stdout
    assert (cached(isolated_cache), lock_files(isolated_cache)) == ([], [])
    assert hub.bytes_sent() == 0


@pytest.mark.parametrize(("token", "name"), [("hf_member", "org/gated"), ("hf_member", "org/private")])
def test_who_may_have_the_files_gets_them(token: str, name: str, hub: HubServer, isolated_cache: IsolatedCache) -> None:
    answer = call("pull", name, "--json", env=hub_env(isolated_cache, hub, HF_TOKEN=token))
    assert (answer.code, answer.data["download_status"]) == (0, "success")
    assert "preflight_warning" not in answer.data


def test_the_token_file_of_the_hub_client_is_read(hub: HubServer, isolated_cache: IsolatedCache) -> None:
    (isolated_cache.hf_home / "token").write_text("hf_member\n", encoding="ascii")
    assert call("pull", "org/private", "--json", env=hub_env(isolated_cache, hub)).code == 0


def test_a_gated_refusal_names_the_page_with_the_terms(hub: HubServer, isolated_cache: IsolatedCache) -> None:
    answer = call("pull", "org/gated", "--json", env=hub_env(isolated_cache, hub))
    assert f"{hub.endpoint}/org/gated" in answer.error["hint"]
    assert "HF_TOKEN" in answer.error["hint"]


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", status=503, on="resolve", method="HEAD"),
        Fault("status", status=500, on="resolve", method="HEAD"),
        Fault("hang", on="resolve", method="HEAD", headers=False),
        Fault("status", status=404, on="resolve", method="HEAD"),
        Fault("status", status=503, on="info", times=1),
        Fault("hang", on="info", times=1),
    ],
    ids=[
        "503 of a file",
        "500 of a file",
        "time-out of a file",
        "404 of a file",
        "503 of the question",
        "time-out of the question",
    ],
)
def test_what_is_no_clear_no_is_a_warning(fault: Fault, hub: HubServer, isolated_cache: IsolatedCache) -> None:
    active = hub.add_fault(fault)
    env = hub_env(isolated_cache, hub, **(IMPATIENT if fault.kind == "hang" else {}))
    answer = call("pull", "org/open", "--json", env=env)
    assert active.hits
    assert (answer.code, answer.data["download_status"]) == (0, "success")
    assert answer.data["preflight_warning"]


def test_the_warning_is_told_to_people_on_stderr(hub: HubServer, isolated_cache: IsolatedCache) -> None:
    hub.add_fault(Fault("status", status=503, on="resolve", method="HEAD"))
    answer = call("pull", "org/open", env=hub_env(isolated_cache, hub))
    assert answer.stderr.startswith("warning: access could not be tested: HTTP 503\n")
    assert answer.stdout.startswith("pull: org/open — ")


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "a" * 97,
        "org/" + "a" * 97,
        "/org/model",
        "org/model/",
        "org//model",
        "org/../model",
        "a\\b",
        "./folder",
        "~",
        "x--y/z",
    ],
)
def test_a_name_that_cannot_be_is_refused_without_a_request(
    name: str, hub: HubServer, isolated_cache: IsolatedCache
) -> None:
    answer = call("pull", name, "--json", env=hub_env(isolated_cache, hub))
    assert (answer.code, answer.error["type"]) == (1, "ValidationError")
    assert hub.requests == []


@pytest.mark.parametrize("words", [("org/open@",), ("org/open", "--revision", ""), ("org/open@a/../b",)], ids=" ".join)
def test_a_revision_that_cannot_be_is_refused_without_a_request(
    words: tuple[str, ...], hub: HubServer, isolated_cache: IsolatedCache
) -> None:
    answer = call("pull", *words, "--json", env=hub_env(isolated_cache, hub))
    assert (answer.code, answer.error["type"]) == (1, "ValidationError")
    assert hub.requests == []


def test_a_token_that_no_header_can_hold_is_named(hub: HubServer, isolated_cache: IsolatedCache) -> None:
    for token in ("hf_tökén", "hf_a\x01b", "hf_a b"):
        answer = call("pull", "org/open", "--json", env=hub_env(isolated_cache, hub, HF_TOKEN=token))
        assert (answer.code, answer.error["type"]) == (1, "access_denied")
        assert "HF_TOKEN" in answer.error["hint"] and token not in answer.stdout
    assert hub.requests == []


def test_offline_opens_no_socket(hub: HubServer, isolated_cache: IsolatedCache) -> None:
    env = hub_env(isolated_cache, hub)
    offline = {**env, "HF_HUB_OFFLINE": "1"}
    for words in ((), ("--dry-run",), ("--force",)):
        answer = call("pull", "org/open", *words, "--json", env=offline)
        assert (answer.code, answer.error["type"]) == (1, "offline")
    assert hub.requests == []
    assert call("pull", "org/open", "--json", env=env).code == 0
    assert call("pull", "org/open", "--json", env=offline).data["download_status"] == "already_exists"
    assert call("pull", "org/open@main", "--json", env=offline).data["download_status"] == "already_exists"


def test_a_hub_that_cannot_be_reached_is_a_typed_error(isolated_cache: IsolatedCache) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        # Bound but not listening: every connection is refused.
        env = {**isolated_cache.env, "HF_ENDPOINT": f"http://127.0.0.1:{taken.getsockname()[1]}"}
        answer = call("pull", "org/open", "--json", env=env)
    assert (answer.error["type"], answer.error["retryable"]) == ("download_failed", True)
    assert cached(isolated_cache) == []


def test_an_endpoint_that_is_no_address_is_a_usage_error(isolated_cache: IsolatedCache) -> None:
    for endpoint in ("huggingface.co", "ftp://hub", "http://", "http://a b"):
        answer = call("pull", "org/open", "--json", env={**isolated_cache.env, "HF_ENDPOINT": endpoint})
        assert (answer.code, answer.error["type"]) == (2, "CommandError")
        assert "HF_ENDPOINT" in answer.error["message"]
