"""pull where it could hurt: addresses with two readings, links in the cache, https that is cut off, names that collide."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import cache_builder as build
from support.call import call
from support.hub_server import Fault, HubServer
from support.isolation import IsolatedCache
from support.pulling import (
    MEBIBYTE,
    blob_folder,
    finish,
    hub_env,
    model_files,
    publish,
    published_files,
    snapshot_files,
    start_pull,
    until_progress,
    wrong_blobs,
)
from support.tls_front import TlsFront

from mlxk2.hub.partial import PartialFile, partial_path

NAME = "org/tiny"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "store") as server:
        yield server


@pytest.fixture
def env(hub: HubServer, isolated_cache: IsolatedCache) -> dict[str, str]:
    return hub_env(isolated_cache, hub)


def text_of(size_bytes: int, seed: int) -> bytes:
    """Text that is no LFS file to the server, and different everywhere."""
    return random.Random(seed).randbytes(size_bytes // 2).hex().encode()


def test_https_that_is_cut_off_leaves_no_wrong_byte_behind(
    hub: HubServer, isolated_cache: IsolatedCache, tmp_path: Path
) -> None:
    # No LFS files: the storage has no https here, and a redirect to http is refused.
    texts = {f"large-{number}.txt": text_of(9 * MEBIBYTE, number) for number in range(6)}
    repo = publish(hub, files={"config.json": b"{}", **texts})
    hub.add_fault(Fault("slow", path="large-*", rate=2 * MEBIBYTE))
    seen = 0
    with TlsFront(hub.endpoint, tmp_path) as front:
        trusted = str(front.certificate)
        more = {"HF_ENDPOINT": front.endpoint, "SSL_CERT_FILE": trusted, "REQUESTS_CA_BUNDLE": trusted}
        for share in (4, 16, 28):
            with start_pull(isolated_cache, hub, NAME, "--stream-json", **more) as process:
                until_progress(process, share * MEBIBYTE)
                process.send_signal(signal.SIGINT)
                assert finish(process)[0] == 130
            for name, content in texts.items():
                place = partial_path(blob_folder(isolated_cache, NAME) / repo.files("main")[name].etag)
                seen += place.exists() and assert_right_so_far(place, content)
    assert seen


def assert_right_so_far(place: Path, content: bytes) -> int:
    """Hold what the journal says is there against the true content; returns how many bytes that are."""
    part = PartialFile(place, len(content))
    for piece in range(part.pieces):
        start = part.span(piece)[0]
        buffer = memoryview(bytearray(part.present[piece]))
        part.read(start, buffer)
        assert bytes(buffer) == content[start : start + len(buffer)]
    part.close()
    return part.bytes_present


def test_an_address_that_two_parsers_read_in_two_ways_gets_no_token(
    hub: HubServer, isolated_cache: IsolatedCache, tmp_path: Path
) -> None:
    publish(hub)
    hub.add_token("hf_secret", user="alice")
    own = hub.endpoint.partition("//")[2]
    with HubServer(tmp_path / "other") as stranger:
        other = stranger.endpoint.partition("//")[2]
        for place in (
            f"http://{other}\\@{own}/x",
            f"http://{own}@{other}/x",
            f"http://{other}#@{own}/x",
            "http://[::1",
        ):
            hub.clear_faults()
            hub.add_fault(Fault("status", status=302, on="resolve", method="GET", headers_extra={"Location": place}))
            call("pull", NAME, "--json", env=hub_env(isolated_cache, hub, HF_TOKEN="hf_secret"))
        assert not any(request.authorized for request in stranger.requests)


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_lies_in_the_place_of_a_partial_file_is_not_written_through(
    kind: str, hub: HubServer, isolated_cache: IsolatedCache, env: dict[str, str], tmp_path: Path
) -> None:
    repo = publish(hub)
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    folder = blob_folder(isolated_cache, NAME)
    folder.mkdir(parents=True)
    place = partial_path(folder / repo.files("main")["config.json"].etag)
    if kind == "link":
        place.symlink_to(victim)
    else:
        os.mkfifo(place)
    assert call("pull", NAME, "--json", env=env).code == 0
    assert victim.read_bytes() == b"precious"
    assert not (folder / repo.files("main")["config.json"].etag).is_symlink()
    assert snapshot_files(isolated_cache, NAME, repo.head()) == published_files(repo)


@pytest.mark.parametrize("part", ["snapshots", "refs", "blobs"])
def test_folders_of_the_model_that_are_links_are_not_written_through(
    part: str, hub: HubServer, isolated_cache: IsolatedCache, env: dict[str, str], tmp_path: Path
) -> None:
    publish(hub)
    outside = tmp_path / "outside"
    outside.mkdir()
    root = isolated_cache.hub / "models--org--tiny"
    root.mkdir()
    (root / part).symlink_to(outside)
    answer = call("pull", NAME, "--json", env=env)
    assert (answer.code, answer.error["type"]) == (1, "permission_denied")
    assert list(outside.iterdir()) == []


def test_a_look_that_fails_once_is_no_verdict(hub: HubServer, env: dict[str, str]) -> None:
    publish(hub)
    for fault in (
        Fault("status", status=503, path="config.json", method="GET", times=1),
        Fault("drop", path="config.json", after=5, times=1),
    ):
        hub.clear_faults()
        active = hub.add_fault(fault)
        assert call("pull", NAME, "--dry-run", "--json", env=env).data["preview"]["runtime_compatible"] is True
        assert active.hits == 1


def test_what_was_there_and_wrong_is_not_counted_as_reused(
    hub: HubServer, isolated_cache: IsolatedCache, env: dict[str, str]
) -> None:
    repo = publish(hub)
    entry = repo.files("main")["model.safetensors"]
    folder = blob_folder(isolated_cache, NAME)
    folder.mkdir(parents=True)
    part = PartialFile(partial_path(folder / entry.sha256), entry.size)
    part.write(0, bytes(2 * MEBIBYTE))
    part.close()
    data = call("pull", NAME, "--json", env=env).data
    assert data["bytes_reused"] == 0
    assert data["bytes_downloaded"] > data["bytes_total"]
    assert "were there" not in data["message"]
    assert wrong_blobs(isolated_cache) == []


def test_branches_that_cannot_both_be_files_are_told_before_the_download(
    hub: HubServer, isolated_cache: IsolatedCache, env: dict[str, str]
) -> None:
    repo = publish(hub)
    repo.branch("dev/x", repo.head())
    refs = isolated_cache.hub / "models--org--tiny" / "refs"
    refs.mkdir(parents=True)
    (refs / "dev").write_text("0" * 40, encoding="ascii")
    answer = call("pull", f"{NAME}@dev/x", "--json", env=env)
    assert (answer.code, answer.error["type"]) == (1, "permission_denied")
    assert hub.bytes_sent(NAME) == 0


def test_files_of_the_model_that_look_like_left_overs_stay(
    hub: HubServer, isolated_cache: IsolatedCache, env: dict[str, str]
) -> None:
    repo = publish(hub, files={**model_files(2000), "notes.tmp": b"a file of theirs"})
    call("pull", NAME, "--json", env=env)
    call("pull", NAME, "--force", "--include", "*.json", "--json", env=env)
    assert "notes.tmp" in snapshot_files(isolated_cache, NAME, repo.head())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HF_ENDPOINT", "http://127.0.0.1:99999"),
        ("HF_ENDPOINT", "http://a:b:c"),
        ("HF_ENDPOINT", "http://[::1"),
        ("ALL_PROXY", "socks5://127.0.0.1:9"),
        ("http_proxy", "http://127.0.0.1:port"),
    ],
)
def test_an_address_that_cannot_be_is_a_usage_error(name: str, value: str, env: dict[str, str]) -> None:
    answer = call("pull", NAME, "--json", env={**env, name: value})
    assert (answer.code, answer.error["type"]) == (2, "CommandError")
    assert answer.error["hint"]


def test_pages_of_folders_without_end_are_given_up(hub: HubServer, env: dict[str, str]) -> None:
    publish(hub)
    files = [{"type": "directory", "path": f"d{number}", "oid": "a" * 40, "size": 0} for number in range(100_002)]
    hub.add_fault(Fault("body", on="tree", body=build.as_json(files)))
    answer = call("pull", NAME, "--json", env=env)
    assert (answer.error["type"], answer.error["retryable"]) == ("download_failed", False)
