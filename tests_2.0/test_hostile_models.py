"""`run` on folders that were made to hang or to overwhelm it: each is refused with a typed error, and soon."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import cache_builder as build
from support.call import Result, call
from support.isolation import IsolatedCache
from support.tiny_model import TinyOptions, scripted_model

LIMIT_S = 60
TEXT = "Well, hello."


@pytest.fixture(autouse=True)
def deadline() -> Iterator[None]:
    """End a test that hangs: what waits for a FIFO or reads without end is woken by the signal."""

    def end(*_: Any) -> None:
        pytest.fail(f"still running after {LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def run(folder: Path, cache: IsolatedCache, *flags: str) -> Result:
    return call("run", str(folder), "hi", "--temperature", "0", *flags, "--json", env=cache.env)


@pytest.mark.parametrize(
    "name",
    [
        "special_tokens_map.json",
        "chat_template.jinja",
        "chat_template.json",
        "generation_config.json",
        "tokenizer_config.json",
        "tokenizer.json",
        "model-extra.safetensors",
        "notes/read.me",
    ],
)
def test_a_fifo_in_the_folder_makes_the_model_unhealthy(
    name: str, tmp_path: Path, isolated_cache: IsolatedCache
) -> None:
    folder = scripted_model(tmp_path / "m", TEXT)
    (folder / "vocab.json").write_text("{}", encoding="ascii")
    (folder / name).parent.mkdir(exist_ok=True)
    build.fifo(folder / name)
    answer = run(folder, isolated_cache)
    assert answer.error["type"] == "model_unhealthy"
    (model,) = call("health", str(folder), "--json", env=isolated_cache.env).data["unhealthy"]
    assert model["findings"] == [{"code": "not_a_file", "message": f"Not regular files: {name}", "path": name}]


def test_a_link_to_a_device_makes_the_model_unhealthy(tmp_path: Path, isolated_cache: IsolatedCache) -> None:
    folder = scripted_model(tmp_path / "m", TEXT)
    (folder / "chat_template.jinja").symlink_to("/dev/zero")
    answer = run(folder, isolated_cache)
    assert answer.error["type"] == "model_unhealthy"
    assert "Not regular files: chat_template.jinja" in answer.error["message"]


@pytest.mark.parametrize(
    ("content", "words"), [(b"x" * (2**20 + 1), "larger than 1 MiB"), (b"\xff\xfe", "UTF-8")], ids=["huge", "no text"]
)
def test_a_template_that_cannot_be_used_is_refused_where_it_is_needed(
    content: bytes, words: str, tmp_path: Path, isolated_cache: IsolatedCache
) -> None:
    folder = scripted_model(tmp_path / "m", TEXT)
    (folder / "chat_template.jinja").write_bytes(content)
    answer = run(folder, isolated_cache)
    assert answer.error["type"] == "generation_failed"
    assert words in answer.error["message"] and "chat_template.jinja" in answer.error["message"]
    assert run(folder, isolated_cache, "--no-chat-template").data["response"] == TEXT


ENDLESS = {
    "one loop": "{% for i in range(10**9) %}{% endfor %}",
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "recursive loop": "{% for i in [[]] recursive %}{{ loop([[], []]) }}{% endfor %}",
    "power": "{{ 10 ** (10 ** 10) }}",
    "squares": "{% set n = namespace(x=9) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
    "repetition": "{{ 'a' * 10**14 }}",
    "nesting": "{% for i in [1] %}" * 30 + "{% endfor %}" * 30,
}


@pytest.mark.parametrize("template", ENDLESS.values(), ids=list(ENDLESS))
def test_a_template_without_end_is_a_typed_error(template: str, tmp_path: Path, isolated_cache: IsolatedCache) -> None:
    folder = scripted_model(tmp_path / "m", TEXT, TinyOptions(chat_template=template))
    assert run(folder, isolated_cache).error["type"] == "generation_failed"


WITHOUT_JINJA = "import sys; sys.modules['jinja2'] = None; from mlxk2.cli import main; sys.exit(main(sys.argv[1:]))"


def test_a_missing_jinja2_is_named(tmp_path: Path, isolated_cache: IsolatedCache) -> None:
    folder = scripted_model(tmp_path / "m", TEXT)
    command = [sys.executable, "-c", WITHOUT_JINJA, "run", str(folder), "hi", "--json"]
    environment = {**os.environ, **isolated_cache.env}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1, done.stderr
    assert '"type": "dependency_missing"' in done.stdout and "jinja2" in done.stdout


@pytest.mark.parametrize("template", ["", "  \n", "{{ raise_exception.__globals__ }}", "{{ '\\ud800' }}"])
def test_a_template_that_makes_no_text_is_the_models_fault(
    template: str, tmp_path: Path, isolated_cache: IsolatedCache
) -> None:
    folder = scripted_model(tmp_path / "model", TEXT)
    (folder / "chat_template.jinja").write_text(template or " ", encoding="utf-8")
    answer = run(folder, isolated_cache)
    assert (answer.code, answer.error["type"]) == (1, "generation_failed")
    assert "--no-chat-template" in answer.error["hint"]


@pytest.mark.mlx_real
def test_weights_that_do_not_fit_the_config_are_told_briefly(tmp_path: Path, isolated_cache: IsolatedCache) -> None:
    folder = scripted_model(tmp_path / "model", TEXT, TinyOptions(config={"num_hidden_layers": 500}))
    answer = run(folder, isolated_cache)
    assert (answer.code, answer.error["type"]) == (1, "incompatible_model")
    assert answer.error["message"].startswith("mlx-lm cannot load the model: ")
    assert not answer.error["message"].endswith((":", " "))
    assert len(answer.error["detail"]) <= 2000
    assert "health" in answer.error["hint"]
