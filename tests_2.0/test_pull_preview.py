"""`pull --dry-run` says of a model what `show` says of it once it is there, and reads next to nothing for that."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import cache_builder as build
from support.call import call, checked
from support.hub_server import Fault, HubServer
from support.isolation import IsolatedCache
from support.pulling import MEBIBYTE, finish, hub_env, start_pull, weights

NAME = "org/some"
Files = dict[str, bytes]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "store") as server:
        yield server


def quantized() -> Files:
    tensors = {
        "model.layers.0.mlp.up_proj.weight": ("U32", [64, 8]),
        "model.layers.0.mlp.up_proj.scales": ("BF16", [64, 1]),
        "model.layers.0.mlp.up_proj.biases": ("BF16", [64, 1]),
    }
    files = build.chat_model(quantization={"bits": 4, "group_size": 64})
    return {**files, "model.safetensors": build.safetensors(tensors, {"format": "mlx"})}


def without(name: str, files: Files) -> Files:
    return {path: content for path, content in files.items() if path != name}


def large_header() -> Files:
    """A header that is longer than what is read first."""
    tensors = {f"model.layers.{number}.self_attn.q_proj.weight": ("BF16", [4, 4]) for number in range(2000)}
    return {**build.chat_model(), "model.safetensors": build.safetensors(tensors, {"format": "mlx"})}


MODELS: dict[str, Callable[[], Files]] = {
    "chat": build.chat_model,
    "sharded": lambda: build.sharded_model(3),
    "quantized": quantized,
    "embedding": build.embedding_model,
    "GGUF": build.gguf_model,
    "PyTorch": build.pytorch_model,
    "a long header": large_header,
    "an architecture that nobody knows": lambda: build.chat_model(model_type="novel"),
    "needs code of its own": lambda: build.chat_model(model_file="model.py"),
    "MLX by the metadata of its weights alone": lambda: {**build.chat_model(), "README.md": b"# nothing\n"},
    "no front matter, no MLX": lambda: {
        **build.chat_model(),
        "README.md": b"",
        "model.safetensors": build.safetensors(metadata={"format": "pt"}),
    },
    "no config": lambda: without("config.json", build.chat_model()),
    "no weights": lambda: without("model.safetensors", build.chat_model()),
    "no tokenizer": lambda: without("tokenizer.json", build.chat_model()),
    "a missing shard": lambda: without("model-00002-of-00003.safetensors", build.sharded_model(3)),
    "a config that is no JSON": lambda: {**build.chat_model(), "config.json": b"{nonsense"},
}
SAME = ("framework", "model_type", "runtime_compatible", "reason", "context_length", "quantization", "parameters")


@pytest.mark.parametrize("kind", MODELS)
def test_the_preview_says_what_show_says_afterwards(kind: str, hub: HubServer, isolated_cache: IsolatedCache) -> None:
    hub.create_repo(NAME).commit(MODELS[kind]())
    env = hub_env(isolated_cache, hub)
    preview = call("pull", NAME, "--dry-run", "--json", env=env).data["preview"]
    assert list(isolated_cache.hub.glob("models--org*")) == []
    warned = call("pull", NAME, "--json", env=env).data.get("runtime_warning")
    shown = call("show", NAME, "--json", env=env).data
    assert {key: preview[key] for key in SAME} == {key: shown["model"][key] for key in SAME}
    assert preview["memory"] == shown["memory"]
    assert warned == shown["model"]["reason"]


def test_a_preview_reads_next_to_nothing(hub: HubServer, isolated_cache: IsolatedCache) -> None:
    files = {**build.chat_model(), "model.safetensors": weights(40 * MEBIBYTE), "tokenizer.json": b" " * 3 * MEBIBYTE}
    hub.create_repo(NAME).commit(files)
    answer = call("pull", NAME, "--dry-run", env=hub_env(isolated_cache, hub))
    assert hub.bytes_sent(NAME) < 300_000
    lines = answer.stdout.splitlines()
    assert lines[0].startswith("pull: org/some — would fetch 5 of 5 files, 45.1 MB; runs here")
    assert {"Framework: MLX", "Type: chat", "Architecture: llama", "Runs here: yes"} <= set(lines)
    assert any(line.startswith("Memory: weights 41.9 MB") for line in lines)
    assert any("model.safetensors" in line and "download" in line for line in lines)


def test_a_header_that_lies_about_its_length_is_no_trap(hub: HubServer, isolated_cache: IsolatedCache) -> None:
    reasons = {
        0: "Corrupt weight files: model.safetensors",
        5000: "Truncated weight files: model.safetensors (116 of at least 5008 bytes)",
        2**40: "Corrupt weight files: model.safetensors",
        2**63: "Corrupt weight files: model.safetensors",
    }
    for length, reason in reasons.items():
        name = f"org/liar-{length}"
        liar = build.raw_safetensors({"a": 1}, bytes(100), length=length)
        hub.create_repo(name).commit({**build.chat_model(), "model.safetensors": liar})
        data = call("pull", name, "--dry-run", "--json", env=hub_env(isolated_cache, hub)).data
        assert data["preview"]["parameters"] is None
        assert data["preview"]["memory"]["weights_bytes"] is None
        assert (data["preview"]["reason"], data["preview"]["runtime_compatible"]) == (reason, False)


def test_a_header_that_is_too_long_to_look_at_leaves_the_rest_of_the_answer(
    hub: HubServer, isolated_cache: IsolatedCache
) -> None:
    long = build.raw_safetensors({"__metadata__": {"a": "x" * 26 * MEBIBYTE}}, bytes(100))
    hub.create_repo(NAME).commit({**build.chat_model(), "model.safetensors": long})
    preview = call("pull", NAME, "--dry-run", "--json", env=hub_env(isolated_cache, hub)).data["preview"]
    assert (preview["framework"], preview["parameters"], preview["memory"]["weights_bytes"]) == ("MLX", None, None)
    assert preview["runtime_compatible"]
    assert hub.bytes_sent(NAME) < MEBIBYTE


@pytest.mark.parametrize("path", ["config.json", "model.safetensors"])
def test_ctrl_c_does_not_wait_for_a_silent_server(
    path: str, hub: HubServer, isolated_cache: IsolatedCache, tmp_path: Path
) -> None:
    hub.create_repo(NAME).commit(build.chat_model())
    silent = hub.add_fault(Fault("hang", path=path))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    patient = {"HF_HUB_DOWNLOAD_TIMEOUT": "60", "TMPDIR": str(temporary)}
    with start_pull(isolated_cache, hub, NAME, "--dry-run", "--json", **patient) as process:
        while not silent.hits:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=0.05)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        code, out = finish(process)
    assert (code, checked(out, code)["error"]["type"]) == (130, "interrupted")
    assert time.monotonic() - began < 5
    assert list(temporary.iterdir()) == []


def test_files_of_an_absurd_size_are_only_listed(hub: HubServer, isolated_cache: IsolatedCache) -> None:
    entries = [{"type": "file", "path": "config.json", "oid": "a" * 40, "size": 1 << 41}]
    hub.create_repo(NAME).commit(build.chat_model())
    hub.add_fault(Fault("body", on="tree", body=json.dumps(entries).encode()))
    answer = call("pull", NAME, "--dry-run", "--json", env=hub_env(isolated_cache, hub))
    assert answer.error["type"] == "insufficient_space"
