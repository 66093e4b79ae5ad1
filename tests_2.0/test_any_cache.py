"""Property: whatever a cache looks like, every command answers with one valid document and exit code 0 or 1."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from support.call import call
from support.isolation import make_cache
from support.planting import COMMIT_A, plant, plant_tiny

NAMES = ("org/tiny", "mlx-community/other")
FILES = (
    "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md", "chat_template.jinja",
    "special_tokens_map.json", "generation_config.json",
)  # fmt: skip
INDEX = "model.safetensors.index.json"

places = st.sampled_from([
    *(f"models--{name.replace('/', '--')}/snapshots/{COMMIT_A}/{file}" for name in NAMES for file in (*FILES, INDEX)),
    *(f"models--{name.replace('/', '--')}{part}" for name in NAMES for part in ("", "/snapshots", "/refs", "/refs/main")),
    "stray", "models--", "models--a----b", ".locks",
])  # fmt: skip
json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
config_like = st.dictionaries(
    st.sampled_from([
        "model_type", "quantization", "architectures", "max_position_embeddings", "num_hidden_layers", "text_config",
        "num_key_value_heads", "head_dim", "weight_map", "metadata", "auto_map", "torch_dtype", "hidden_size",
        "layer_types", "vocab_size",
    ]),
    json_like,
    max_size=6,
)  # fmt: skip


def as_bytes(value: object) -> bytes:
    import json

    return json.dumps(value).encode("utf-8", "surrogatepass")


contents = st.one_of(
    st.binary(max_size=64),
    json_like.map(as_bytes),
    config_like.map(as_bytes),
    st.tuples(st.integers(0, 2**64 - 1), st.binary(max_size=40)).map(lambda p: p[0].to_bytes(8, "little") + p[1]),
    config_like.map(as_bytes).map(lambda header: len(header).to_bytes(8, "little") + header),
    st.just(b'{"weight_map": {"a": "../../../../outside", "b": "/etc/passwd", "c": "x\\u0000y"}}'),
)
changes = st.one_of(
    st.tuples(st.just("write"), places, contents),
    st.tuples(st.just("remove"), places, st.just(b"")),
    st.tuples(st.just("truncate"), places, st.binary(min_size=1, max_size=2)),
    st.tuples(st.just("link"), places, st.sampled_from([b"nowhere", b".", b"..", b"/", b"self", b"/dev/zero"])),
    st.tuples(st.just("folder"), places, st.just(b"")),
    st.tuples(st.just("fifo"), places, st.just(b"")),
)


def remove(path: Path) -> None:
    if path.is_symlink() or path.is_file() or path.is_fifo():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)


def apply(hub: Path, kind: str, place: str, content: bytes) -> None:
    """Change one thing in the cache; a place that cannot be reached any more is left alone."""
    path = hub / place
    if kind == "truncate":
        if path.is_file():
            os.truncate(path, min(path.stat().st_size, int.from_bytes(content, "little")))
        return
    try:
        remove(path)
        if kind == "write":
            path.write_bytes(content)
        elif kind == "link":
            path.symlink_to(path.name if content == b"self" else content.decode())
        elif kind == "folder":
            path.mkdir()
        elif kind == "fifo":
            os.mkfifo(path)
    except OSError:
        pass


@settings(max_examples=60)
@given(st.lists(changes, min_size=1, max_size=5))
def test_every_command_answers_whatever_the_cache_holds(steps: list[tuple[str, str, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cache = make_cache(Path(folder))
        canary = cache.hf_home / "canary"
        canary.write_text("alive", encoding="ascii")
        for name in NAMES:
            plant_tiny(cache.hub, name)
        plant(cache.hub, "org/last")
        for kind, place, content in steps:
            apply(cache.hub, kind, place, content)
        for words in (
            ["list"], ["health"], ["health", "--deep"], ["show", "org/tiny"], ["show", "org/tiny", "--files"],
            ["show", "org/tiny", "--config"], ["list", "tiny"], ["rm", "org/tiny", "--dry-run"], ["rm", "mlx-community/other"],
            ["run", "org/tiny", "hi", "--max-tokens", "2", "--temperature", "0"],
        ):  # fmt: skip
            answer = call(*words, "--json", env=cache.env)
            assert answer.code in (0, 1), (words, answer)
            assert answer.stderr == ""
            if answer.code:
                assert answer.error["type"] != "InternalError", (words, answer.error)
            if words == ["list"]:
                assert "org/last" in [model["name"] for model in answer.data["models"]]
        for words in (
            ["list", "--all", "--health", "--verbose"],
            ["health", "--verbose"],
            ["show", "org/tiny", "--files"],
        ):
            shown = call(*words, env=cache.env, terminal=True, width=80)
            assert "bug of MLX Knife" not in shown.stderr, shown.stderr
        assert canary.read_text(encoding="ascii") == "alive"
