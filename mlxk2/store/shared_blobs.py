"""The cache-wide blob store of newer hub clients: payloads that several repositories link to.

`<hub>/blobs/<2 hex>/<64 hex>` is a payload; `<64 hex>.refs` beside it lists the links, relative to the hub, one a line.
The list is a hint: each entry is checked against the disk, and without a list nothing is ever deleted.
Source: huggingface_hub >= 1.32, layout version 1.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

STORE_FOLDER = "blobs"
_MARKER = ".huggingface-shared-blobs"
_LAYOUT = "1\n"
_PAYLOAD = re.compile(r"[0-9a-f]{64}")
_LARGEST_LIST = 1 << 20


def orphans_without(hub: Path, doomed_links: Iterable[str]) -> tuple[str, ...]:
    """List the payloads that nothing refers to any more once `doomed_links` are gone."""
    store = _store(hub)
    if store is None:
        return ()
    doomed = {os.path.abspath(link) for link in doomed_links}
    payloads = {_target(link, store) for link in doomed} - {None}
    found = []
    for payload in sorted(p for p in payloads if p is not None):
        links = _links_to(payload, hub, store)
        if links is not None and links <= doomed:
            found.append(payload)
    return tuple(found)


def sweep(hub: Path, payload: str) -> None:
    """Remove one payload and its list, unless something has come to refer to it meanwhile. Raises: OSError."""
    store = _store(hub)
    if store is None:
        return
    with _locked(payload + ".lock") as locked:
        if locked and _links_to(payload, hub, store) == set():
            os.unlink(payload)
            os.unlink(payload + ".refs")


def _store(hub: Path) -> str | None:
    """The store's folder, if it is one that this layout describes."""
    store = os.path.join(os.path.abspath(hub), STORE_FOLDER)
    return store if not os.path.islink(store) and _read(os.path.join(store, _MARKER)) == _LAYOUT else None


def _target(link: str, store: str) -> str | None:
    """The payload that a repository's blob links to; None for anything but a plain link into the store."""
    if not os.path.islink(link):
        return None
    target = os.path.normpath(os.path.join(os.path.dirname(link), os.readlink(link)))
    folder, name = os.path.split(target)
    known = (
        _PAYLOAD.fullmatch(name) is not None and folder == os.path.join(store, name[:2]) and not os.path.islink(folder)
    )
    return target if known and os.path.isfile(target) and not os.path.islink(target) else None


def _links_to(payload: str, hub: Path, store: str) -> set[str] | None:
    """The links that really lead to a payload now; None where its list cannot be read."""
    text = _read(payload + ".refs")
    if text is None:
        return None
    names = [name for name in text.splitlines() if not os.path.isabs(name) and ".." not in name.split("/")]
    links = (os.path.join(os.path.abspath(hub), name) for name in names)
    return {link for link in links if _target(link, store) == payload}


def _read(path: str) -> str | None:
    try:
        if os.path.islink(path) or not os.path.isfile(path) or os.path.getsize(path) > _LARGEST_LIST:
            return None
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError):
        return None


@contextmanager
def _locked(path: str) -> Iterator[bool]:
    """Hold the lock that the hub client takes for this payload; False where a download holds it, and will use it."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        yield _try_lock(handle)
    finally:
        os.close(handle)


def _try_lock(handle: int) -> bool:
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
