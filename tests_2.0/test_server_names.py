"""By which names a server's models can be asked for, over HTTP."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from support import cache_builder as build
from support.fake_host import http_client
from support.isolation import IsolatedCache
from support.serving import CLI, FAKE, RunningServer, running
from support.tiny_model import scripted_model

CAN_SERVE = sys.version_info >= (3, 11) and all(map(importlib.util.find_spec, ("fastapi", "uvicorn")))
pytestmark = pytest.mark.skipif(
    not CAN_SERVE, reason="the extra `serve` is not installed, or Python is older than 3.11"
)
NAME = "mlx-community/tiny-Instruct"


@pytest.fixture
def cache(isolated_cache: IsolatedCache) -> IsolatedCache:
    add(isolated_cache, NAME)
    return isolated_cache


def add(cache: IsolatedCache, *names: str) -> None:
    for name in names:
        build.Repo(cache.hub, name).snapshot(build.chat_model())


def folder(path: Path) -> Path:
    path.mkdir(parents=True)
    for name, content in build.chat_model().items():
        (path / name).write_bytes(content)
    return path


def ask(server: RunningServer, name: str) -> Any:
    """Ask for the description of a model: its whole name, or the error's code and message."""
    with http_client() as http:
        response = http.get(f"http://127.0.0.1:{server.port}/v1/models/{quote(name, safe='')}")
    told = response.json()
    return told["id"] if response.status_code == 200 else (response.status_code, told["error"]["message"])


def test_a_model_is_described_by_every_name_that_a_request_may_give_it(cache: IsolatedCache) -> None:
    with running(CLI, "--json", "--port", "0", env=cache.env) as server:
        for name in (NAME, "tiny-Instruct", "TINY", f"{NAME}@main"):
            assert ask(server, name) == NAME
        for name in ("nothing", "@", "", "tiny@nothing"):
            assert ask(server, name)[0] == 404, name


def test_a_folder_answers_to_the_last_part_of_its_path(cache: IsolatedCache, tmp_path: Path) -> None:
    place = folder(tmp_path / "deep" / "My-Model")
    with running(CLI, "--json", "--port", "0", "--models", f"{place},tiny", env=cache.env) as server:
        assert ask(server, "My-Model") == ask(server, "my-mod") == str(place)
        assert ask(server, "tiny") == NAME
        # The folders above it are no part of its name, and no path is read.
        for name in ("deep", "deep/My-Model", f"{place.parent}/./My-Model", "./My-Model", str(tmp_path / "deep")):
            assert ask(server, name)[0] == 404, name


def test_a_chat_names_a_folder_by_the_last_part_of_its_path(tmp_path: Path) -> None:
    place = scripted_model(tmp_path / "scripted", "Hello there.")
    with running(FAKE, str(place)) as server, http_client() as http:
        body = {"model": "scripted", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
        answer = http.post(f"http://127.0.0.1:{server.port}/v1/chat/completions", json=body)
        assert (answer.status_code, answer.json().get("model")) == (200, str(place)), answer.text


def test_two_that_end_alike_are_told_by_their_whole_names(cache: IsolatedCache, tmp_path: Path) -> None:
    one, other, cached = folder(tmp_path / "a" / "same"), folder(tmp_path / "b" / "same"), "mlx-community/same"
    add(cache, cached)
    for flags, names in (((one, other), [str(one), str(other)]), ((one, cached), [str(one), cached])):
        models = ",".join(map(str, flags))
        with running(CLI, "--json", "--port", "0", "--models", models, env=cache.env) as server:
            status, message = ask(server, "same")
            assert status == 400 and all(name in message for name in names), message
            assert [ask(server, name) for name in names] == names


def test_a_workspace_that_is_also_given_by_its_path_is_one_model(cache: IsolatedCache, tmp_path: Path) -> None:
    place = folder(tmp_path / "home" / "mine")
    env = {**cache.env, "MLXK2_WORKSPACE_HOME": str(place.parent)}
    with running(CLI, "--json", "--port", "0", "--models", str(place), env=env) as server:
        assert ask(server, "mine") == str(place)


def test_a_name_fits_only_what_may_be_asked_for(cache: IsolatedCache) -> None:
    add(cache, "org/tiny-Secret", "mlx-community/tiny-Other")
    with running(CLI, "--json", "--port", "0", "--models", "org/tiny-Secret", env=cache.env) as server:
        assert ask(server, "tiny") == ask(server, "tiny-Secret") == "org/tiny-Secret"
        assert ask(server, "Other")[0] == 404


def test_an_ambiguous_name_lists_what_can_be_served_and_counts_the_rest(cache: IsolatedCache) -> None:
    add(cache, *(f"org/tiny-{number}" for number in range(6)), "org/half-1")
    files = build.chat_model()
    for name in ("org/a-tiny-broken", "org/half-0"):
        build.Repo(cache.hub, name).snapshot({**files, "model.safetensors": files["model.safetensors"][:-1]})
    with running(CLI, "--json", "--port", "0", env=cache.env) as server:
        status, message = ask(server, "tiny")
        assert status == 400
        assert message.startswith("'tiny' fits 7 models; one of: mlx-community/tiny-Instruct, org/tiny-0,"), message
        assert message.endswith(" and 2 more") and "broken" not in json.dumps(message)
        # Where one is left, it is meant.
        assert ask(server, "half") == "org/half-1"
