"""list, show, health, rm and version load no heavy library: looked up in `sys.modules` of a real process, no clock."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.isolation import SENTINEL, IsolatedCache

HEAVY = (
    "mlx", "mlx_lm", "numpy", "transformers", "huggingface_hub", "tokenizers", "jinja2", "rich", "asyncio", "typer", "yaml",
    "pydantic", "fastapi", "httpx", "httpx2", "requests", "safetensors", "fastjsonschema", "jsonschema", "importlib.metadata",
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
HEADER = b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'


@pytest.fixture
def one_model(isolated_cache: IsolatedCache) -> IsolatedCache:
    """A cache with one sound model, so that the commands go all the way."""
    snapshot = isolated_cache.hub / "models--mlx-community--tiny-Instruct" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    config = {"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    (snapshot / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (snapshot / "tokenizer.json").write_text("{}", encoding="utf-8")
    (snapshot / "tokenizer_config.json").write_text('{"chat_template": "x"}', encoding="utf-8")
    (snapshot / "README.md").write_text("---\ntags:\n- mlx\n---\n", encoding="utf-8")
    (snapshot / "model.safetensors").write_bytes(len(HEADER).to_bytes(8, "little") + HEADER + bytes(8))
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


def test_the_probe_sees_what_is_loaded(one_model: IsolatedCache, tmp_path: Path) -> None:
    """The empty lists above mean something: the probe sees our own modules, and only those of the verb in question."""
    _, names = modules_loaded_by(("list", "--json"), one_model, tmp_path / "modules")
    assert "mlxk2.operations.list" in names
    assert "mlxk2.operations.show" not in names
    assert not any(name.startswith(("mlxk2.runner", "mlxk2.convert", "mlxk2.output")) for name in names)


def test_the_sentinel_is_a_model_of_the_cache_but_not_of_the_list(one_model: IsolatedCache, tmp_path: Path) -> None:
    """So that the deletions above ran against a cache that the safety switch accepted."""
    assert (one_model.hub / f"models--{SENTINEL}").is_dir()
    modules_loaded_by(("rm", NAME, "--force", "--json"), one_model, tmp_path / "modules")
    assert not (one_model.hub / "models--mlx-community--tiny-Instruct").exists()
