"""Pushes to the loopback Hub: folders of the size that a test needs, and who may write where."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from support import cache_builder as build
from support.call import Result, call
from support.hub_server import HubServer, Repo
from support.isolation import IsolatedCache
from support.pulling import hub_env

TOKEN = "hf_write"
NAME = "acme/tiny"


def push_env(cache: IsolatedCache, hub: HubServer, **more: str) -> dict[str, str]:
    """The environment of somebody who may write to acme/ on this server."""
    hub.add_token(TOKEN, user="alice", write=True, orgs=("acme",))
    return hub_env(cache, hub, HF_TOKEN=TOKEN, MLXK2_ENABLE_ALPHA_FEATURES="1", **more)


def workspace(folder: Path, files: Mapping[str, bytes] | None = None, **more: bytes) -> Path:
    """Write a folder to push: a sound chat model unless told otherwise."""
    return build.model_folder(folder, {**(build.chat_model() if files is None else files), **more})


def push(folder: Path | str, *words: str, env: Mapping[str, str], name: str = NAME) -> Result:
    """Run `push FOLDER NAME --private --json`."""
    return call("push", str(folder), name, "--private", *words, "--json", env=env)


def published(hub: HubServer, files: Mapping[str, bytes] | None = None, name: str = NAME) -> Repo:
    """Put a private model on the Hub."""
    repo = hub.create_repo(name, private=True)
    repo.commit(dict(build.chat_model() if files is None else files))
    return repo


def start_push(folder: Path, *words: str, env: Mapping[str, str], name: str = NAME) -> subprocess.Popen[str]:
    """Start `mlxk2 push` as a process of its own."""
    outside = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    command = [sys.executable, "-m", "mlxk2", "push", str(folder), name, "--private", *words]
    return subprocess.Popen(command, env={**outside, **env}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def writes(hub: HubServer) -> list[str]:
    """Requests that change something on the server, or send it content."""
    return [request.kind for request in hub.requests if request.method not in ("GET", "HEAD")]
