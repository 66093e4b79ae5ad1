"""Every command takes `--json`, before or after the verb, and then prints one document of four keys, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.call import call
from support.isolation import IsolatedCache

from mlxk2 import envelope

pytestmark = pytest.mark.spec

# Each verb with arguments that succeed or fail on an empty cache; both must answer in the same form.
CALLS = {
    "list": ("list",),
    "show": ("show", "org/missing"),
    "health": ("health",),
    "pull": ("pull", "org/missing"),
    "rm": ("rm", "org/missing"),
    "run": ("run", "org/missing", "hello"),
    "convert": ("convert", "org/missing", "./target"),
    "clone": ("clone", "org/missing", "./target"),
    "push": ("push", "./missing", "org/model", "--check-only"),
    "serve": ("serve", "--model", "org/missing"),
    "ps": ("ps", "--port", "1"),
    "schema": ("schema",),
    "version": ("version",),
}

ALPHA = {"MLXK2_ENABLE_ALPHA_FEATURES": "1"}


@pytest.fixture
def env(isolated_cache: IsolatedCache) -> dict[str, str]:
    """Every command there is, and no network."""
    return {**isolated_cache.env, **ALPHA, "HF_HUB_OFFLINE": "1"}


def test_no_command_is_forgotten() -> None:
    assert set(CALLS) == set(envelope.COMMANDS)


@pytest.mark.parametrize("verb", CALLS)
@pytest.mark.parametrize("place", ["before", "after"])
def test_json_flag_before_and_after_the_verb(verb: str, place: str, env: dict[str, str]) -> None:
    words = ("--json", *CALLS[verb]) if place == "before" else (*CALLS[verb], "--json")
    result = call(*words, env=env)
    answer = json.loads(result.stdout)
    assert list(answer) == ["status", "command", "data", "error"]
    assert answer["command"] == verb
    assert result.code == (0 if answer["status"] == "success" else 1)
    assert result.stdout.startswith('{\n  "status"')
    assert result.stdout.endswith("}\n")
    assert result.stderr == ""


@pytest.mark.parametrize("verb", CALLS)
def test_error_and_data_exclude_each_other(verb: str, env: dict[str, str]) -> None:
    answer = call(*CALLS[verb], "--json", env=env).json
    if answer["status"] == "success":
        assert answer["error"] is None
        assert answer["data"] is not None
    else:
        assert answer["error"]["type"]
        assert answer["error"]["message"]


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (("lst",), None),
        (("--no-such-flag",), None),
        (("list", "--no-such-flag"), "list"),
        (("show",), "show"),
        (("rm",), "rm"),
        (("rm", "./folder"), "rm"),
        (("pull",), "pull"),
        (("pull", "org/model@a", "--revision", "b"), "pull"),
        (("clone", "org/model"), "clone"),
        (("push", "./folder", "org/model"), "push"),
        (("run", "model"), "run"),
        (("run", "model", "two", "prompts"), "run"),
        (("run", "model", "hello", "--max-tokens", "many"), "run"),
        (("convert", "./missing.gguf", "./target", "--bits", "7"), "convert"),
        (("schema", "no-such-command"), "schema"),
    ],
)
def test_usage_error_is_exit_code_2_in_both_forms(words: tuple[str, ...], command: str | None) -> None:
    for argv in ((*words, "--json"), ("--json", *words)):
        result = call(*argv, env=ALPHA)
        assert (result.code, result.stderr) == (2, "")
        assert (result.json["status"], result.json["command"], result.json["data"]) == ("error", command, None)
        assert result.error["type"] == "CommandError"
    human = call(*words, env=ALPHA)
    assert (human.code, human.stdout) == (2, "")
    assert human.stderr.startswith("error: ")
    assert "\nhint: " in human.stderr


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",)], ids=["none", "--help", "-h"])
def test_help_names_every_command(words: tuple[str, ...]) -> None:
    result = call(*words, env=ALPHA)
    assert (result.code, result.stderr) == (0, "")
    listed = {line.split()[0] for line in result.stdout.splitlines() if line.startswith("  ") and line.split()}
    assert listed >= set(envelope.COMMANDS)


@pytest.mark.parametrize("words", [("--json",), ("--help", "--json"), ("--json", "-h")], ids=" ".join)
def test_help_as_json_is_an_answer(words: tuple[str, ...]) -> None:
    result = call(*words, env=ALPHA)
    assert (result.code, result.json["status"], result.json["command"]) == (0, "success", None)
    assert set(result.data["commands"]) == set(envelope.COMMANDS)


@pytest.mark.parametrize("command", envelope.COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    result = call(command, "--help", env=ALPHA)
    assert (result.code, result.stderr) == (0, "")
    assert result.stdout.startswith(f"usage: mlxk2 {command}")


def test_no_answer_shows_a_path_that_nobody_asked_for(env: dict[str, str], tmp_path: Path) -> None:
    for words in CALLS.values():
        assert str(tmp_path) not in call(*words, "--json", env=env).stdout
