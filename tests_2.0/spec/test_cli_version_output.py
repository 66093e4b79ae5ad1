"""What `--version` and `version` say, for people and for scripts."""

from __future__ import annotations

import platform

import pytest
from support.call import call

import mlxk2

pytestmark = pytest.mark.spec


def test_version_alone_is_one_line() -> None:
    result = call("--version")
    assert (result.code, result.stdout, result.stderr) == (0, f"mlxk2 {mlxk2.__version__}\n", "")


@pytest.mark.parametrize(
    "words",
    [("--version", "--json"), ("--json", "--version"), ("version", "--json"), ("--json", "version")],
    ids=" ".join,
)
def test_version_as_json(words: tuple[str, ...]) -> None:
    result = call(*words)
    assert result.code == 0
    assert result.stderr == ""
    answer = result.json
    assert list(answer) == ["status", "command", "data", "error"]
    assert (answer["status"], answer["command"], answer["error"]) == ("success", "version", None)
    assert answer["data"]["cli_version"] == mlxk2.__version__
    assert list(answer["data"])[:2] == ["cli_version", "json_api_spec_version"]
    assert answer["data"]["python"] == platform.python_version()


@pytest.mark.mlx_real
def test_versions_of_libraries_are_those_that_are_installed() -> None:
    from importlib.metadata import version

    data = call("--version", "--json").json["data"]
    assert (data["mlx"], data["mlx_lm"]) == (version("mlx"), version("mlx-lm"))
    assert data["huggingface_hub"] == version("huggingface-hub")
