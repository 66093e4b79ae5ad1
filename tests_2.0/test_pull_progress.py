"""What a pull tells while it works: bars for people at a terminal, lines of JSON for programs, nothing in JSON mode."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
from support.call import KEYS, VALIDATOR, call
from support.hub_server import Fault, HubServer
from support.isolation import IsolatedCache
from support.pulling import MEBIBYTE, hub_env, model_files, weights

NAME = "org/tiny"
SIZE = 12 * MEBIBYTE
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "store") as server:
        server.create_repo(NAME).commit({**model_files(), "model.safetensors": weights(SIZE)})
        yield server


def lines_of(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_every_line_of_the_stream_is_valid_and_the_last_is_the_answer(
    hub: HubServer, isolated_cache: IsolatedCache
) -> None:
    hub.limit_rate(8 * MEBIBYTE)
    hub.add_fault(Fault("status", status=503, on="resolve", method="HEAD"))
    result = call("pull", NAME, "--stream-json", env=hub_env(isolated_cache, hub))
    *events, answer = lines_of(result.stdout)
    assert (result.code, result.stderr, list(answer)) == (0, "", KEYS)
    VALIDATOR.validate(answer)
    schema = jsonschema.Draft7Validator(json.loads(call("schema", "event").stdout))
    for event in events:
        schema.validate(event)
    assert not schema.is_valid({"event": "progress"})
    assert [event["event"] for event in events if event["event"] != "progress"] == ["started", "warning"]


def test_the_stream_counts_up_to_the_whole(hub: HubServer, isolated_cache: IsolatedCache) -> None:
    hub.limit_rate(8 * MEBIBYTE)
    *events, answer = lines_of(call("pull", NAME, "--stream-json", env=hub_env(isolated_cache, hub)).stdout)
    whole = [event for event in events if event["event"] == "progress" and event["name"] is None]
    counts = [event["done"] for event in whole]
    assert counts == sorted(counts) and len(counts) > 2
    assert counts[-1] == whole[-1]["total"] == answer["data"]["bytes_total"]
    files = {event["name"] for event in events if event["event"] == "progress"} - {None}
    assert files == {"model.safetensors"}


def test_errors_are_the_last_line_too(hub: HubServer, isolated_cache: IsolatedCache) -> None:
    env = hub_env(isolated_cache, hub)
    for words, code, kind in (
        (("org/missing",), 1, "access_denied"),
        ((NAME, "--no-such-flag"), 2, "CommandError"),
        (("",), 1, "ValidationError"),
    ):
        result = call("pull", *words, "--stream-json", env=env)
        answer = lines_of(result.stdout)[-1]
        VALIDATOR.validate(answer)
        assert (result.code, answer["error"]["type"]) == (code, kind)
        assert result.stderr == ""


def test_json_mode_prints_the_answer_alone(hub: HubServer, isolated_cache: IsolatedCache) -> None:
    hub.add_fault(Fault("status", status=503, on="resolve", method="HEAD"))
    result = call("pull", NAME, "--json", env=hub_env(isolated_cache, hub))
    assert (result.code, result.stderr) == (0, "")
    assert result.data["preflight_warning"]


def test_a_terminal_shows_bars_with_speed_and_leaves_nothing_but_warnings(
    hub: HubServer, isolated_cache: IsolatedCache
) -> None:
    hub.limit_rate(4 * MEBIBYTE)
    hub.add_fault(Fault("status", status=503, on="resolve", method="HEAD"))
    result = call("pull", NAME, env=hub_env(isolated_cache, hub), terminal=True, width=100)
    drawn = ESCAPES.sub("", result.stderr)
    assert result.code == 0
    assert "org/tiny" in drawn and "model.safetensors" in drawn
    assert re.search(r"\d MB/s", drawn)
    assert "warning: access could not be tested: HTTP 503" in drawn
    assert result.stdout.startswith("pull: org/tiny — ")
    assert "\x1b[?25h" in result.stderr, "the cursor is visible again"


def test_no_colour_is_respected(hub: HubServer, isolated_cache: IsolatedCache) -> None:
    env = hub_env(isolated_cache, hub, NO_COLOR="1")
    result = call("pull", NAME, env=env, terminal=True, width=100)
    assert result.code == 0
    assert not re.search(r"\x1b\[[0-9;]*m", result.stderr.replace("\x1b[0m", ""))


def test_quiet_draws_nothing(hub: HubServer, isolated_cache: IsolatedCache) -> None:
    hub.add_fault(Fault("status", status=503, on="resolve", method="HEAD"))
    result = call("pull", NAME, "--quiet", env=hub_env(isolated_cache, hub), terminal=True, width=100)
    assert (result.code, result.stderr) == (0, "")
