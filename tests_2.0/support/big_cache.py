"""A cache of many models of all kinds for benchmarks: tensor data are sparse, so thousands take no room.

python -m support.big_cache FOLDER COUNT
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from support.cache_builder import CONFIG, Repo, as_json, safetensors_header, shard_name

LAYERS = 24
_PARTS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.down_proj",
)
_CARD = (
    b"---\nlibrary_name: mlx\nlicense: apache-2.0\npipeline_tag: text-generation\ntags:\n- mlx\n- chat\n---\n# Model\n"
)
_TOKENIZER = as_json({"model": {"vocab": {f"token{number}": number for number in range(400)}}})
_TOKENIZER_CONFIG = as_json({"chat_template": "{{ messages }}" * 40, "model_max_length": 4096})


def make_big_cache(hub: Path, count: int) -> Path:
    """Fill `hub` with `count` models: single file, sharded, embeddings, GGUF, PyTorch and broken ones, in turns."""
    for number in range(count):
        make, kind = _KINDS[number % len(_KINDS)]
        make(Repo(hub, f"mlx-community/{kind}-{number:05d}"))
    return hub


def _common() -> dict[str, bytes]:
    return {
        "config.json": as_json({**CONFIG, "num_hidden_layers": LAYERS}),
        "generation_config.json": as_json({"eos_token_id": 2, "temperature": 0.7}),
        "special_tokens_map.json": as_json({"eos_token": "</s>"}),
        "tokenizer.json": _TOKENIZER,
        "tokenizer_config.json": _TOKENIZER_CONFIG,
        "added_tokens.json": as_json({"<|im_end|>": 127}),
        "merges.txt": b"#version: 0.2\na b\n",
        "vocab.json": as_json({"a": 0, "b": 1}),
        ".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n",
        "README.md": _CARD,
    }


def _layers(first: int, last: int) -> dict[str, tuple[str, list[int]]]:
    return {
        f"model.layers.{layer}.{part}.weight": ("BF16", [1024, 1024]) for layer in range(first, last) for part in _PARTS
    }


def _put_sparse(repo: Repo, snapshot: Path, name: str, header: bytes, data_bytes: int) -> None:
    """Link a large file whose data are a hole; its blob has a name of the right form, not the true hash."""
    digest = hashlib.sha256(f"{repo.name}/{name}".encode()).hexdigest()
    blob = repo.path / "blobs" / digest
    with blob.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + data_bytes)
    repo.link(snapshot / name, blob)


def _data_bytes(tensors: Mapping[str, tuple[str, list[int]]]) -> int:
    return sum(2 * shape[0] * shape[1] for _, shape in tensors.values())


def _put_weights(repo: Repo, snapshot: Path, name: str, tensors: Mapping[str, tuple[str, list[int]]]) -> None:
    _put_sparse(repo, snapshot, name, safetensors_header(tensors, {"format": "mlx"}), _data_bytes(tensors))


def _single(repo: Repo) -> None:
    _put_weights(repo, repo.snapshot(_common()), "model.safetensors", _layers(0, LAYERS))


def _sharded(repo: Repo, left_out: int = 0) -> None:
    weight_map: dict[str, str] = {}
    parts = {shard_name(n + 1, 4): _layers(n * LAYERS // 4, (n + 1) * LAYERS // 4) for n in range(4)}
    for name, tensors in parts.items():
        weight_map.update(dict.fromkeys(tensors, name))
    index = as_json({"metadata": {}, "weight_map": weight_map})
    snapshot = repo.snapshot({**_common(), "model.safetensors.index.json": index})
    for name, tensors in list(parts.items())[left_out:]:
        _put_weights(repo, snapshot, name, tensors)


def _broken(repo: Repo) -> None:
    _sharded(repo, left_out=1)


def _embedding(repo: Repo) -> None:
    config = as_json({"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 64})
    files = {
        "config.json": config,
        "README.md": b"---\npipeline_tag: sentence-similarity\n---\n",
        "vocab.txt": b"a\nb\n",
    }
    _put_weights(repo, repo.snapshot(files), "model.safetensors", _layers(0, 6))


def _gguf(repo: Repo) -> None:
    snapshot = repo.snapshot({"README.md": b"---\nlibrary_name: gguf\n---\n", "config.json": as_json(CONFIG)})
    _put_sparse(repo, snapshot, "model-Q4_0.gguf", b"GGUF" + bytes(20), 1 << 26)


def _pytorch(repo: Repo) -> None:
    snapshot = repo.snapshot({**_common(), "README.md": b"---\nlibrary_name: transformers\n---\n"})
    _put_sparse(repo, snapshot, "pytorch_model.bin", b"PK\3\4", 1 << 26)


_KINDS: tuple[tuple[Callable[[Repo], None], str], ...] = (
    (_single, "chat"),
    (_sharded, "sharded"),
    (_single, "single"),
    (_embedding, "embedding"),
    (_gguf, "gguf"),
    (_pytorch, "pytorch"),
    (_sharded, "large"),
    (_broken, "broken"),
)


def main() -> None:
    """Make the cache that the command line asks for."""
    make_big_cache(Path(sys.argv[1]), int(sys.argv[2]))


if __name__ == "__main__":
    main()
    sys.stdout.write(os.path.abspath(sys.argv[1]) + "\n")
