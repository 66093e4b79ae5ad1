"""rm frees payloads of the hub client's cache-wide blob store, and only those that nothing else links to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.cache_builder import Repo
from support.call import call
from support.isolation import IsolatedCache
from support.planting import COMMIT_A

PAYLOAD = "c3" * 32


@pytest.fixture
def store(isolated_cache: IsolatedCache) -> Path:
    """A shared store with one payload of 1,000 bytes and an empty list of links."""
    folder = isolated_cache.hub / "blobs"
    (folder / PAYLOAD[:2]).mkdir(parents=True)
    (folder / ".huggingface-shared-blobs").write_text("1\n", encoding="ascii")
    (folder / PAYLOAD[:2] / PAYLOAD).write_bytes(b"x" * 1000)
    (folder / PAYLOAD[:2] / f"{PAYLOAD}.refs").write_text("", encoding="ascii")
    return folder


def link_model(cache: IsolatedCache, store: Path, name: str, listed: bool = True) -> None:
    """Make a model whose only weight file is a link to the shared payload."""
    repo = Repo(cache.hub, name)
    blob = repo.path / "blobs" / "etag"
    repo.link(blob, payload(store))
    repo.link(repo.snapshot({}, COMMIT_A, ref=None) / "model.safetensors", blob)
    if listed:
        with (store / PAYLOAD[:2] / f"{PAYLOAD}.refs").open("a", encoding="ascii") as refs:
            refs.write(f"models--{name}/blobs/etag\n")


def payload(store: Path) -> Path:
    return store / PAYLOAD[:2] / PAYLOAD


def test_the_last_model_takes_the_payload_along(isolated_cache: IsolatedCache, store: Path) -> None:
    link_model(isolated_cache, store, "one")
    answer = call("rm", "one", "--json", env=isolated_cache.env)
    assert answer.data["freed_bytes"] == 1000
    assert not payload(store).exists()
    assert not Path(f"{payload(store)}.refs").exists()


def test_a_payload_that_another_model_uses_stays(isolated_cache: IsolatedCache, store: Path) -> None:
    for name in ("one", "two"):
        link_model(isolated_cache, store, name)
    assert call("rm", "one", "--json", env=isolated_cache.env).data["freed_bytes"] == 0
    assert payload(store).read_bytes() == b"x" * 1000
    assert (isolated_cache.hub / "models--two/snapshots" / COMMIT_A / "model.safetensors").stat().st_size == 1000
    assert call("rm", "two", "--json", env=isolated_cache.env).data["freed_bytes"] == 1000
    assert not payload(store).exists()


@pytest.mark.parametrize("damage", ["no list", "no marker", "list is a link"])
def test_what_cannot_be_proved_unused_is_kept(isolated_cache: IsolatedCache, store: Path, damage: str) -> None:
    link_model(isolated_cache, store, "one")
    refs = Path(f"{payload(store)}.refs")
    if damage == "no marker":
        (store / ".huggingface-shared-blobs").unlink()
    else:
        refs.unlink()
    if damage == "list is a link":
        refs.symlink_to("/dev/null")
    assert call("rm", "one", "--json", env=isolated_cache.env).data["action"] == "deleted"
    assert payload(store).exists()


def test_a_link_out_of_the_store_is_not_followed(isolated_cache: IsolatedCache, store: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.write_text("alive", encoding="ascii")
    link_model(isolated_cache, store, "one")
    blob = isolated_cache.hub / "models--one" / "blobs" / "etag"
    blob.unlink()
    blob.symlink_to(os.path.relpath(canary, blob.parent))
    assert call("rm", "one", "--json", env=isolated_cache.env).data["action"] == "deleted"
    assert canary.read_text(encoding="ascii") == "alive"


@pytest.mark.filterwarnings("ignore")
def test_the_hub_clients_own_layout_is_understood(isolated_cache: IsolatedCache, store: Path) -> None:
    """The real client writes the list of links that this code reads."""
    shared = pytest.importorskip("huggingface_hub.utils._shared_blobs")
    link_model(isolated_cache, store, "one", listed=False)
    hub = isolated_cache.hub
    shared._append_manifest_reference(Path(f"{payload(store)}.refs"), "models--one/blobs/etag")
    assert shared.is_shared_blobs_dir(store)
    assert call("rm", "one", "--json", env=isolated_cache.env).data["freed_bytes"] == 1000
    assert hub.is_dir() and not payload(store).exists()
