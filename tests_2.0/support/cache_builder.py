"""Hugging Face caches on disk, as the hub client lays them out, and every way to break them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlxk2.store.layout import LOCKS_FOLDER, repo_folder

LARGE_BYTES = 1024
CHAT_TEMPLATE = "{{ messages[0].content }}"
CONFIG: Mapping[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "vocab_size": 128,
    "torch_dtype": "bfloat16",
}
Files = Mapping[str, bytes]


def as_json(value: Any) -> bytes:
    """Write a value as a JSON file holds it."""
    return json.dumps(value).encode()


def safetensors_header(
    tensors: Mapping[str, tuple[str, list[int]]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Make the header, with its length before it, of tensors given as name -> (dtype, shape)."""
    sizes = {"F32": 4, "BF16": 2, "F16": 2, "U32": 4, "I32": 4, "U8": 1, "F8_E4M3": 1}
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, (dtype, shape) in tensors.items():
        count = 1
        for size in shape:
            count *= size
        end = offset + sizes[dtype] * count
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = as_json(header)
    return len(text).to_bytes(8, "little") + text


def safetensors(
    tensors: Mapping[str, tuple[str, list[int]]] | None = None, metadata: Mapping[str, str] | None = None
) -> bytes:
    """Make a sound safetensors file whose data are zeros."""
    chosen = tensors if tensors is not None else {"model.embed_tokens.weight": ("BF16", [128, 64])}
    header = safetensors_header(chosen, metadata)
    described = json.loads(header[8:])
    ends = [value["data_offsets"][1] for name, value in described.items() if name != "__metadata__"]
    return header + bytes(max(ends, default=0))


def raw_safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """Make a file of any header, lies included; `length` is what its first eight bytes claim."""
    text = header if isinstance(header, bytes) else as_json(header)
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def lfs_pointer(content: bytes = b"") -> bytes:
    """Make what git leaves in place of a large file."""
    digest = hashlib.sha256(content).hexdigest()
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize 123456789\n".encode()


def chat_model(**changes: Any) -> dict[str, bytes]:
    """Files of a sound MLX chat model in one weight file; keywords replace or add keys of its config."""
    return {
        "config.json": as_json({**CONFIG, **changes}),
        "tokenizer.json": b'{"model": {}}',
        "tokenizer_config.json": as_json({"chat_template": CHAT_TEMPLATE}),
        "README.md": b"---\nlibrary_name: mlx\ntags:\n- mlx\n---\n# Model\n",
        "model.safetensors": safetensors(metadata={"format": "mlx"}),
    }


def shard_name(number: int, total: int, ending: str = "safetensors") -> str:
    """Spell the name of a shard."""
    stem = "pytorch_model" if ending == "bin" else "model"
    return f"{stem}-{number:05d}-of-{total:05d}.{ending}"


def sharded_model(shards: int = 3, **changes: Any) -> dict[str, bytes]:
    """Files of a sound MLX chat model in several shards with an index."""
    files = chat_model(**changes)
    del files["model.safetensors"]
    weight_map = {}
    for number in range(1, shards + 1):
        tensor = f"model.layers.{number}.mlp.up_proj.weight"
        name = shard_name(number, shards)
        files[name] = safetensors({tensor: ("BF16", [64, 16])}, {"format": "mlx"})
        weight_map[tensor] = name
    files["model.safetensors.index.json"] = as_json({"metadata": {"total_size": 1}, "weight_map": weight_map})
    return files


def embedding_model() -> dict[str, bytes]:
    """Files of a sound encoder in PyTorch's safetensors."""
    return {
        "config.json": as_json({"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 64}),
        "README.md": b"---\npipeline_tag: sentence-similarity\ntags: [sentence-transformers]\n---\n",
        "model.safetensors": safetensors(metadata={"format": "pt"}),
    }


def gguf_model() -> dict[str, bytes]:
    """Files of a repository that holds a GGUF file and nothing else."""
    return {"model-Q4_0.gguf": b"GGUF" + bytes(60), "README.md": b"# GGUF\n"}


def pytorch_model() -> dict[str, bytes]:
    """Files of a sound model in PyTorch's own format."""
    return {"config.json": as_json(CONFIG), "tokenizer.json": b"{}", "pytorch_model.bin": b"PK" + bytes(2000)}


class Repo:
    """One `models--…` folder: blobs under their true hashes, snapshots of links, refs."""

    def __init__(self, hub: Path, name: str) -> None:
        self.hub, self.name = hub, name
        self.path = hub / repo_folder(name)
        for part in ("blobs", "snapshots", "refs"):
            (self.path / part).mkdir(parents=True, exist_ok=True)

    def blob(self, content: bytes, large: bool | None = None) -> Path:
        """Store content under sha256 (large files) or git's sha1 (small ones)."""
        is_large = len(content) >= LARGE_BYTES if large is None else large
        git = b"blob %d\0" % len(content) + content
        digest = hashlib.sha256(content).hexdigest() if is_large else hashlib.sha1(git).hexdigest()
        path = self.path / "blobs" / digest
        path.write_bytes(content)
        return path

    def snapshot(self, files: Files, commit: str | None = None, ref: str | None = "main") -> Path:
        """Make a snapshot of these files; `ref` is the branch that points to it."""
        name = commit or hashlib.sha1(repr(sorted(files)).encode() + self.name.encode()).hexdigest()
        folder = self.path / "snapshots" / name
        folder.mkdir(parents=True, exist_ok=True)
        for relative, content in files.items():
            self.link(folder / relative, self.blob(content))
        if ref is not None:
            target = self.path / "refs" / ref
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(name, encoding="ascii")
        return folder

    def link(self, place: Path, blob: Path) -> None:
        """Put a relative link to a blob where a snapshot has a file."""
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(os.path.relpath(blob, place.parent))

    def lock(self, name: str) -> Path:
        """Leave a lock file of this model, as an interrupted download does."""
        path = self.hub / LOCKS_FOLDER / self.path.name / f"{name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return path


def model_folder(folder: Path, files: Files) -> Path:
    """Write a workspace: plain files, no links."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def replace(place: Path, content: bytes) -> None:
    """Put other content where a file or link was, leaving the blob that it may have linked to."""
    place.unlink(missing_ok=True)
    place.write_bytes(content)


def dangle(place: Path) -> None:
    """Take away the blob behind a link."""
    place.resolve().unlink()


def truncate(place: Path, size: int) -> None:
    """Cut the file behind a name to `size` bytes."""
    os.truncate(place, size)


def grow_sparse(place: Path, size: int) -> None:
    """Replace a file by one of `size` bytes that takes no room on disk."""
    place.unlink(missing_ok=True)
    with place.open("wb") as file:
        file.truncate(size)


def loop(place: Path) -> None:
    """Make two links that point to each other."""
    place.unlink(missing_ok=True)
    other = place.with_name(place.name + ".loop")
    other.symlink_to(place.name)
    place.symlink_to(other.name)


def fifo(place: Path) -> None:
    """Put a pipe where a file was: opening it for reading would wait for ever."""
    place.unlink(missing_ok=True)
    os.mkfifo(place)


def folder_instead(place: Path) -> None:
    """Put a folder where a file was."""
    place.unlink(missing_ok=True)
    place.mkdir()
