"""Code inside a model folder: executed with --trust-remote-code, and never without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.batching import Batches, write_prompts
from support.call import call, checked
from support.tiny_model import TinyOptions, tiny_model

import mlxk2.inspection.runtime as runtime

TRUST = "--trust-remote-code"
SHORT = ("--max-tokens", "3", "--temperature", "0")
CODE = """
open({marker!r}, "w").close()
from mlx_lm.models.llama import Model, ModelArgs
"""
# Splits at blanks; everything that it does not know is its first word.
TOKENIZER = """
open({marker!r}, "w").close()
from transformers import PreTrainedTokenizer

class OwnTokenizer(PreTrainedTokenizer):
    words = ["<unk>", "one", "two", "three"]
    @property
    def vocab_size(self):
        return len(self.words)
    def get_vocab(self):
        return {{word: number for number, word in enumerate(self.words)}}
    def _tokenize(self, text, **_):
        return text.split()
    def _convert_token_to_id(self, token):
        return self.words.index(token) if token in self.words else 0
    def _convert_id_to_token(self, number):
        return self.words[number] if number < len(self.words) else "<unk>"
    def save_vocabulary(self, *_, **__):
        return ()
"""


@pytest.fixture
def marker(tmp_path) -> Path:
    return tmp_path / "was executed"


@pytest.fixture
def model(tmp_path, marker) -> Path:
    """A model whose config names code of its own."""
    path = tiny_model(tmp_path / "m", TinyOptions(eos_in_tokenizer=None, config={"model_file": "own.py"}))
    (path / "own.py").write_text(CODE.format(marker=str(marker)), encoding="utf-8")
    return path


def can_load_code() -> bool:
    package = runtime.find_mlx_lm()
    return package is not None and '"model_file"' in (Path(package) / "utils.py").read_text(encoding="utf-8")


needs_loader = pytest.mark.skipif(not can_load_code(), reason="this mlx-lm knows no model_file")


def test_without_the_flag_it_is_refused_and_the_way_is_named(model, marker, isolated_cache):
    result = call("run", str(model), "hi", "--json", env=isolated_cache.env)
    assert (result.code, result.error["type"]) == (1, "incompatible_model")
    assert result.error["hint"] == f"mlxk2 run {model} --trust-remote-code"
    assert not marker.exists()


def test_no_path_executes_it_without_the_flag(model, marker, tmp_path, isolated_cache, talk):
    batch = Batches(model, tmp_path, isolated_cache.env)
    write_prompts(batch.source, {1: "hi"})
    assert batch("--json").error["type"] == "incompatible_model"
    assert talk(model, "hi").code == 1
    other = tiny_model(tmp_path / "plain", TinyOptions(eos_in_tokenizer=None))
    drafted = call("run", str(other), "hi", "--draft-model", str(model), "--json", env=isolated_cache.env)
    assert drafted.error["type"] == "incompatible_model"
    for verb in ("show", "health", "list"):
        call(verb, *([] if verb == "list" else [str(model)]), "--json", env=isolated_cache.env)
    assert not marker.exists()


@pytest.mark.mlx_real
@needs_loader
def test_with_the_flag_a_single_run_executes_it(model, marker, isolated_cache):
    result = call("run", str(model), "hi", TRUST, *SHORT, "--json", env=isolated_cache.env)
    assert (result.code, result.data["tokens_generated"]) == (0, 3)
    assert marker.exists()


@pytest.mark.mlx_real
@needs_loader
def test_with_the_flag_a_chat_executes_it(model, marker, talk):
    done = talk(model, "hi", flags=(TRUST, *SHORT))
    assert done.code == 0 and done.answers
    assert marker.exists()


@pytest.mark.mlx_real
@needs_loader
def test_with_the_flag_a_batch_executes_it(model, marker, tmp_path, isolated_cache):
    batch = Batches(model, tmp_path, isolated_cache.env)
    write_prompts(batch.source, {1: "hi", 2: "you"})
    assert batch(TRUST, *SHORT, "--json").data["answered"] == 2
    assert marker.exists()


def test_several_machines_refuse_the_flag(model, marker, isolated_cache):
    hosts = model.parent / "hosts.json"
    hosts.write_text(json.dumps([["127.0.0.1:5000"], ["127.0.0.1:5001"]]))
    env = {**isolated_cache.env, "MLX_RANK": "0", "MLX_HOSTFILE": str(hosts)}
    result = call("run", str(model), "hi", TRUST, "--json", env=env)
    assert (result.code, TRUST in result.error["message"]) == (2, True)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["missing.py", "../outside.py", 5])
@needs_loader
def test_code_that_is_not_in_the_folder_is_not_executed(model, marker, tmp_path, isolated_cache, name):
    (tmp_path / "outside.py").write_text(CODE.format(marker=str(marker)), encoding="utf-8")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "model_file": name}))
    result = call("run", str(model), "hi", TRUST, "--json", env=isolated_cache.env)
    assert (result.code, "not in the folder" in result.error["message"]) == (1, True)
    assert not marker.exists()


@pytest.mark.skipif(can_load_code(), reason="this mlx-lm loads code")
def test_an_mlx_lm_that_cannot_do_it_is_named(model, marker, isolated_cache):
    result = call("run", str(model), "hi", TRUST, "--json", env=isolated_cache.env)
    assert (result.code, "too old" in result.error["message"]) == (1, True)
    assert not marker.exists()


@pytest.mark.mlx_real
@needs_loader
def test_code_that_is_broken_is_an_error_of_the_model(model, isolated_cache):
    (model / "own.py").write_text("def broken(:\n", encoding="utf-8")
    result = call("run", str(model), "hi", TRUST, "--json", env=isolated_cache.env)
    assert (result.code, result.error["type"]) == (1, "incompatible_model")


@pytest.mark.mlx_real
@pytest.mark.parametrize("is_plain", [True, False])
def test_a_tokenizer_of_its_own_is_executed_with_the_flag_only(tmp_path, marker, isolated_cache, is_plain):
    """In a process of its own: transformers keeps what it has loaded in a folder that it chooses when it is imported."""
    path = tiny_model(tmp_path / "m", TinyOptions(eos_in_tokenizer=None))
    if not is_plain:
        (path / "tokenizer.json").unlink()
        (path / "own.tiktoken").write_bytes(b"of no use to anybody else")
    tokenizer_config = {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["own.OwnTokenizer", None]}}
    (path / "tokenizer_config.json").write_text(json.dumps(tokenizer_config), encoding="utf-8")
    (path / "own.py").write_text(TOKENIZER.format(marker=str(marker)), encoding="utf-8")
    env = {**os.environ, **isolated_cache.env, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    command = [sys.executable, "-m", "mlxk2", "run", str(path), "one two", "--no-chat-template", *SHORT, "--json"]

    def run(*flags: str):
        child = subprocess.run([*command, *flags], env=env, capture_output=True, text=True, timeout=120, check=False)
        return child.returncode, checked(child.stdout, child.returncode)

    code, answer = run()
    assert (code, marker.exists()) == (0 if is_plain else 1, False)
    assert is_plain or "auto_map" in answer["error"]["message"]
    code, answer = run(TRUST)
    assert marker.exists(), answer
    if code == 1 and is_plain:
        # mlx-lm before 0.32 takes the tokenizer.json beside it for its own.
        assert answer["error"]["type"] == "incompatible_model"
    else:
        assert (code, answer["data"]["usage"]["prompt_tokens"]) == (0, 2)
