"""Every way a Hub can fail, and two commands at a time: a healthy model, or a typed error and nothing wrong in the cache."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.call import Result, call, checked
from support.hub_server import Fault, HubServer, Repo
from support.isolation import IsolatedCache
from support.pulling import (
    IMPATIENT,
    MEBIBYTE,
    dangling_links,
    finish,
    hub_env,
    lock_files,
    model_files,
    published_files,
    snapshot_files,
    start_pull,
    until_progress,
    weights,
    wrong_blobs,
)

NAME = "org/tiny"
# Two pieces, so that several connections work on one file.
FILES = {**model_files(), "model.safetensors": weights(12 * MEBIBYTE)}
LARGE = "*.safetensors"
OK = "success"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "store") as server:
        server.create_repo(NAME).commit(FILES)
        yield server


def tree_of(*entries: tuple[str, str, int]) -> bytes:
    return json.dumps([{"type": "file", "path": p, "oid": o, "size": s} for p, o, s in entries]).encode()


# What happens, and how it ends: `success`, or the type of the error.
FAULTS: dict[str, tuple[Fault, str]] = {
    "early end": (Fault("drop", path=LARGE, after=300_000, times=3), OK),
    "early end, small file": (Fault("drop", path="config.json", after=10, times=2), OK),
    "early end, always at the start": (Fault("drop", path=LARGE, after=0), "download_failed"),
    "reset": (Fault("reset", path=LARGE, after=2_000_000, times=3), OK),
    "reset, small file": (Fault("reset", path="config.json", after=0, times=2), OK),
    "reset of the question": (Fault("reset", on="info", after=0, times=2), OK),
    "early end of the list": (Fault("drop", on="tree", after=20, times=2), OK),
    "stall": (Fault("hang", path=LARGE, after=200_000, times=2), OK),
    "stall before the headers": (Fault("hang", path="config.json", headers=False, times=1), OK),
    "stall of the question": (Fault("hang", on="info", times=1), OK),
    "flipped byte once": (Fault("flip", path=LARGE, after=9_000_000, times=1), OK),
    "flipped byte always": (Fault("flip", path=LARGE, after=9_000_000), "download_failed"),
    "flipped byte once, small file": (Fault("flip", path="config.json", after=5, times=1), OK),
    "flipped byte always, small file": (Fault("flip", path="config.json", after=5), "download_failed"),
    "too short": (Fault("length", path=LARGE, by=10), "download_failed"),
    "too long": (Fault("length", path=LARGE, by=-10), "download_failed"),
    "too short once": (Fault("length", path="config.json", by=3, times=1), OK),
    "wrong etag": (Fault("etag", etag="0" * 64), OK),
    "no ranges": (Fault("no_range"), OK),
    "500 at first": (Fault("status", status=500, on="file", times=5), OK),
    "503 at first, with a wish": (Fault("status", status=503, on="file", times=2, retry_after="0"), OK),
    "429 with Retry-After": (Fault("status", status=429, on="file", times=2, retry_after="1"), OK),
    "408 once": (Fault("status", status=408, on="storage", times=1), OK),
    "502 of every question at first": (Fault("status", status=502, on="api", times=3), OK),
    "503 for ever": (Fault("status", status=503, on="file"), "download_failed"),
    "429 with a long wish": (Fault("status", status=429, on="file", retry_after="3600"), "download_failed"),
    "403 of the storage": (Fault("status", status=403, on="storage"), "download_failed"),
    "404 of a file": (Fault("status", status=404, on="resolve", method="GET", path=LARGE), "download_failed"),
    "403 of a file": (Fault("status", status=403, on="resolve", method="GET", path=LARGE), "access_denied"),
    "401 of a file": (Fault("status", status=401, on="resolve", method="GET", path=LARGE), "access_denied"),
    "418 of a file": (Fault("status", status=418, on="resolve", method="GET", path=LARGE), "download_failed"),
    "no JSON": (Fault("body", on="info", body=b"<html>welcome to the hotel's network</html>"), "download_failed"),
    "JSON of another kind": (Fault("body", on="tree", body=b'{"files": 3}'), "download_failed"),
    "a commit that is none": (
        Fault("body", on="info", body=b'{"id": "org/tiny", "sha": "../../x"}'),
        "download_failed",
    ),
    "leaves its folder": (Fault("body", on="tree", body=tree_of(("../x", "a" * 40, 3))), "download_failed"),
    "absolute": (Fault("body", on="tree", body=tree_of(("/etc/x", "a" * 40, 3))), "download_failed"),
    "a hash that is a path": (Fault("body", on="tree", body=tree_of(("x", "../../x", 3))), "download_failed"),
    "a file and its folder": (
        Fault("body", on="tree", body=tree_of(("x", "a" * 40, 3), ("x/y", "b" * 40, 3))),
        "download_failed",
    ),
    "a hash with two sizes": (
        Fault("body", on="tree", body=tree_of(("x", "a" * 40, 3), ("y", "a" * 40, 4))),
        "download_failed",
    ),
    "more than any disk": (Fault("body", on="tree", body=tree_of(("x", "a" * 40, 1 << 49))), "insufficient_space"),
    "a size below zero": (Fault("body", on="tree", body=tree_of(("x", "a" * 40, -1))), "download_failed"),
    "a redirect to a file": (
        Fault("status", status=302, on="resolve", method="GET", headers_extra={"Location": "file:///etc/passwd"}),
        "download_failed",
    ),
    "a redirect in a circle": (
        Fault("status", status=302, on="resolve", method="GET", headers_extra={"Location": "?again"}),
        "download_failed",
    ),
}


def check(result: Result, ending: str, cache: IsolatedCache, repo: Repo) -> None:
    assert wrong_blobs(cache) == []
    assert dangling_links(cache) == []
    assert lock_files(cache) == []
    if ending == OK:
        assert result.code == 0, result.stdout
        assert snapshot_files(cache, NAME, repo.head()) == published_files(repo)
    else:
        assert (result.code, result.error["type"]) == (1, ending), result.stdout
        assert not list(cache.hub.glob("models--org--tiny/snapshots/*"))
        assert result.data["download_status"] in ("failed", "access_denied")


@pytest.mark.parametrize("name", FAULTS)
def test_fault_ends_in_a_healthy_model_or_a_typed_error(
    name: str, hub: HubServer, isolated_cache: IsolatedCache
) -> None:
    fault, ending = FAULTS[name]
    active = hub.add_fault(fault)
    patience = IMPATIENT if fault.kind == "hang" else {}
    result = call("pull", NAME, "--json", env=hub_env(isolated_cache, hub, **patience))
    assert active.hits, "the fault never struck"
    check(result, ending, isolated_cache, hub.repo(NAME))


@pytest.mark.parametrize("name", [name for name, (_, ending) in FAULTS.items() if ending != OK])
def test_when_the_hub_is_well_again_the_next_pull_succeeds(
    name: str, hub: HubServer, isolated_cache: IsolatedCache
) -> None:
    if name == "503 for ever":
        pytest.skip("the same as the others, and slow")
    hub.add_fault(FAULTS[name][0])
    env = hub_env(isolated_cache, hub)
    assert call("pull", NAME, "--json", env=env).code == 1
    hub.clear_faults()
    check(call("pull", NAME, "--json", env=env), OK, isolated_cache, hub.repo(NAME))
    assert call("health", NAME, "--deep", "--json", env=env).data["summary"]["healthy_count"] == 1


def test_an_address_of_the_storage_that_expires_is_asked_for_anew(
    hub: HubServer, isolated_cache: IsolatedCache
) -> None:
    # More pieces than connections, so that an address is used again.
    hub.repo(NAME).commit({"model.safetensors": weights(72 * MEBIBYTE)})
    active = hub.add_fault(Fault("expire", after=1))
    result = call("pull", NAME, "--json", env=hub_env(isolated_cache, hub))
    assert active.hits
    check(result, OK, isolated_cache, hub.repo(NAME))


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_clear_no_is_asked_once(status: int, hub: HubServer, isolated_cache: IsolatedCache) -> None:
    active = hub.add_fault(Fault("status", status=status, on="resolve"))
    call("pull", NAME, "--json", env=hub_env(isolated_cache, hub))
    # The look at the access, and at most one try of each connection.
    assert active.hits <= 9


def test_the_token_goes_to_the_hub_and_never_to_the_storage(hub: HubServer, isolated_cache: IsolatedCache) -> None:
    hub.add_token("hf_secret", user="alice")
    env = hub_env(isolated_cache, hub, HF_TOKEN="hf_secret")
    assert call("pull", NAME, "--json", env=env).code == 0
    assert all(request.authorized for request in hub.requests if request.kind != "storage")
    assert not any(request.authorized for request in hub.requests if request.kind == "storage")
    assert any(request.kind == "storage" for request in hub.requests)


def test_a_redirect_to_a_stranger_gets_no_token(hub: HubServer, isolated_cache: IsolatedCache, tmp_path: Path) -> None:
    hub.add_token("hf_secret", user="alice")
    with HubServer(tmp_path / "other") as stranger:
        place = f"{stranger.endpoint}/anything"
        hub.add_fault(Fault("status", status=302, on="resolve", method="GET", headers_extra={"Location": place}))
        call("pull", NAME, "--json", env=hub_env(isolated_cache, hub, HF_TOKEN="hf_secret"))
        assert stranger.requests
        assert not any(request.authorized for request in stranger.requests)


def test_of_two_pulls_at_a_time_one_works_and_the_other_finds_it_done(
    hub: HubServer, isolated_cache: IsolatedCache
) -> None:
    # Slow enough for the second one to come while the first is at work.
    hub.limit_rate(MEBIBYTE)
    with start_pull(isolated_cache, hub, NAME, "--stream-json") as first:
        until_progress(first, MEBIBYTE)
        with start_pull(isolated_cache, hub, NAME, "--json") as second:
            first_code, first_out = finish(first)
            second_code, second_out = finish(second)
    assert (first_code, second_code) == (0, 0)
    assert json.loads(first_out.splitlines()[-1])["data"]["download_status"] == "success"
    assert checked(second_out, 0)["data"]["download_status"] == "already_exists"
    assert hub.bytes_sent(NAME, LARGE) <= len(FILES["model.safetensors"]) + MEBIBYTE
    check(call("pull", NAME, "--json", env=hub_env(isolated_cache, hub)), OK, isolated_cache, hub.repo(NAME))


def test_rm_beside_a_pull_refuses_and_with_force_leaves_no_wreck(hub: HubServer, isolated_cache: IsolatedCache) -> None:
    hub.limit_rate(MEBIBYTE)
    env = hub_env(isolated_cache, hub)
    with start_pull(isolated_cache, hub, NAME, "--stream-json") as process:
        until_progress(process, MEBIBYTE)
        assert call("rm", NAME, "--json", env=env).error["type"] == "locks_present"
        assert call("rm", NAME, "--force", "--json", env=env).data["action"] == "deleted"
        hub.limit_rate(None)
        code, out = finish(process)
    answer = json.loads(out.splitlines()[-1])
    assert (code, answer["error"]["type"]) == (1, "pull_operation_failed")
    assert dangling_links(isolated_cache) == []
    check(call("pull", NAME, "--json", env=env), OK, isolated_cache, hub.repo(NAME))
