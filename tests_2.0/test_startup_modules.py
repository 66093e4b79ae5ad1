"""list, show, health, rm and version load no heavy library: looked up in `sys.modules` of a real process, no clock."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import cache_builder as build
from support.isolation import IsolatedCache

from mlxk2.store.layout import SENTINEL_NAME, repo_folder

HEAVY = (
    "mlx", "mlx_lm", "numpy", "transformers", "huggingface_hub", "tokenizers", "jinja2", "rich", "prompt_toolkit", "asyncio", "typer",
    "yaml", "pydantic", "fastapi", "httpx", "httpx2", "requests", "safetensors", "fastjsonschema", "jsonschema", "importlib.metadata",
    "concurrent.futures", "multiprocessing", "tempfile", "subprocess", "logging", "ssl", "socket", "unittest",
)  # fmt: skip

# Runs the front door as the console script does, then writes what was loaded to the file named first.
PROGRAM = """
import sys
report, before = sys.argv[1], set(sys.modules)
from mlxk2.cli import main
code = main(sys.argv[2:])
loaded = sorted(name for name in sys.modules if name not in before)
with open(report, "w") as file:
    file.write(repr(code) + "\\n" + "\\n".join(loaded))
"""

NAME = "mlx-community/tiny-Instruct"


@pytest.fixture
def one_model(isolated_cache: IsolatedCache) -> IsolatedCache:
    """A cache with one sound model, so that the commands go all the way."""
    build.Repo(isolated_cache.hub, NAME).snapshot(build.chat_model())
    return isolated_cache


def modules_loaded_by(words: tuple[str, ...], cache: IsolatedCache, report: Path) -> tuple[int, list[str]]:
    env = {**os.environ, **cache.env}
    # -S would hide the start-up of a real installation; -X importtime is not needed, the names are enough.
    command = [sys.executable, "-c", PROGRAM, str(report), *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    code, *names = report.read_text(encoding="utf-8").splitlines()
    return int(code), names


@pytest.mark.parametrize(
    "words",
    [
        ("--version", "--json"),
        ("version", "--json"),
        ("list", "--json"),
        ("show", NAME, "--json"),
        ("show", NAME, "--files", "--json"),
        ("health", "--json"),
        ("rm", NAME, "--dry-run", "--json"),
        ("rm", NAME, "--force", "--json"),
    ],
    ids=" ".join,
)
def test_management_commands_load_no_heavy_library(
    words: tuple[str, ...], one_model: IsolatedCache, tmp_path: Path
) -> None:
    code, names = modules_loaded_by(words, one_model, tmp_path / "modules")
    heavy = sorted({name for name in names for root in HEAVY if name == root or name.startswith(root + ".")})
    assert code == 0
    assert heavy == []


@pytest.mark.parametrize("words", [("--version", "--json"), ("list", "--json")], ids=" ".join)
def test_the_fastest_commands_start_without_dataclasses(
    words: tuple[str, ...], one_model: IsolatedCache, tmp_path: Path
) -> None:
    """See docs/adr/0007: the import of `inspect` behind it is a fifth of these commands."""
    _, names = modules_loaded_by(words, one_model, tmp_path / "modules")
    assert "dataclasses" not in names
    assert "inspect" not in names


def test_the_probe_sees_what_is_loaded(one_model: IsolatedCache, tmp_path: Path) -> None:
    """The empty lists above mean something: the probe sees our own modules, and only those of the verb in question."""
    _, names = modules_loaded_by(("list", "--json"), one_model, tmp_path / "modules")
    assert "mlxk2.operations.list" in names
    assert "mlxk2.operations.show" not in names
    assert not any(name.startswith(("mlxk2.runner", "mlxk2.convert", "mlxk2.output")) for name in names)


def test_the_sentinel_is_a_model_of_the_cache_but_not_of_the_list(one_model: IsolatedCache, tmp_path: Path) -> None:
    """So that the deletions above ran against a cache that the safety switch accepted."""
    assert (one_model.hub / repo_folder(SENTINEL_NAME)).is_dir()
    modules_loaded_by(("rm", NAME, "--force", "--json"), one_model, tmp_path / "modules")
    assert not (one_model.hub / repo_folder(NAME)).exists()
