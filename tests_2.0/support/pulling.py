"""Pulls against the loopback Hub: models of the size that a test needs, and what must be true of a cache afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from support import cache_builder as build
from support.hub_server import HubServer, Repo
from support.isolation import IsolatedCache

MEBIBYTE = 1 << 20

# A busy machine is not taken for a Hub that hangs; where one does hang, it is noticed soon.
PATIENT = {"HF_HUB_DOWNLOAD_TIMEOUT": "20", "HF_HUB_ETAG_TIMEOUT": "20"}
IMPATIENT = {"HF_HUB_DOWNLOAD_TIMEOUT": "1", "HF_HUB_ETAG_TIMEOUT": "2"}


def hub_env(cache: IsolatedCache, hub: HubServer, **more: str) -> dict[str, str]:
    """The environment of somebody whose Hub is this server."""
    return {**cache.env, "HF_ENDPOINT": hub.endpoint, **PATIENT, **more}


def weights(size_bytes: int, seed: int = 1) -> bytes:
    """Make a sound safetensors file of about this size whose numbers are random."""
    rows = max(size_bytes // 128, 1)
    header = build.safetensors_header({"model.embed_tokens.weight": ("BF16", [rows, 64])}, {"format": "mlx"})
    return header + random.Random(seed).randbytes(rows * 128)


def model_files(size_bytes: int = 3 * MEBIBYTE, seed: int = 1) -> dict[str, bytes]:
    """Files of a sound MLX chat model whose weights have about this size, with a file in a subfolder."""
    return {**build.chat_model(), "model.safetensors": weights(size_bytes, seed), "extra/notes.txt": b"in a folder\n"}


def publish(hub: HubServer, name: str = "org/tiny", files: Mapping[str, bytes] | None = None) -> Repo:
    """Put a model on the Hub."""
    repo = hub.create_repo(name)
    repo.commit(dict(files) if files is not None else model_files())
    return repo


def snapshot_files(cache: IsolatedCache, name: str, commit: str) -> dict[str, bytes]:
    """Read a snapshot as any reader of the cache sees it."""
    root = cache.hub / build.repo_folder(name) / "snapshots" / commit
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def published_files(repo: Repo, revision: str = "main") -> dict[str, bytes]:
    """Read a revision as the Hub has it."""
    return {path: repo.read(revision, path) for path in repo.files(revision)}


def wrong_blobs(cache: IsolatedCache) -> list[str]:
    """Names of blobs whose content has another hash than their name; files on their way have no such name."""
    wrong = []
    for path in cache.hub.glob("models--*/blobs/*"):
        if path.name.endswith(".incomplete"):
            continue
        content = path.read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        if path.name != (hashlib.sha256(content).hexdigest() if len(path.name) == 64 else git):
            wrong.append(path.name)
    return wrong


def dangling_links(cache: IsolatedCache) -> list[str]:
    """Links of snapshots that lead to nothing."""
    return [str(path) for path in cache.hub.rglob("*") if path.is_symlink() and not path.exists()]


def lock_files(cache: IsolatedCache) -> list[str]:
    """Lock files that a command left behind."""
    return [path.name for path in (cache.hub / ".locks").rglob("*") if path.is_file()]


def bytes_on_disk(cache: IsolatedCache) -> int:
    """How much of all downloads lies on the disk, as far as the file system knows; sparse places do not count."""
    return sum(os.lstat(path).st_blocks * 512 for path in cache.hub.glob("models--*/blobs/*"))


def blob_folder(cache: IsolatedCache, name: str) -> Path:
    """Where the blobs of a model lie."""
    return Path(cache.hub / build.repo_folder(name) / "blobs")


def start_pull(cache: IsolatedCache, hub: HubServer, name: str, *words: str, **more: str) -> subprocess.Popen[str]:
    """Start `mlxk2 pull` as a process of its own."""
    env = {**os.environ, **hub_env(cache, hub, **more)}
    env.pop("HF_HUB_OFFLINE", None)
    command = [sys.executable, "-m", "mlxk2", "pull", name, *words]
    return subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def until_progress(process: subprocess.Popen[str], done_bytes: float) -> None:
    """Read the lines of --stream-json until so much of all files is there."""
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event.get("event") == "progress" and event["name"] is None and event["done"] >= done_bytes:
            return
    raise AssertionError("the pull ended before")


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for the end; returns exit code and what is left of stdout."""
    assert process.stdout is not None
    # `communicate` would lose what came together with the lines that were read.
    too_late = threading.Timer(60, process.kill)
    too_late.start()
    try:
        out = process.stdout.read()
        return process.wait(), out
    finally:
        too_late.cancel()
