"""A file that keeps what a model has read of a prompt: whose it is, and whether it may be used. Reads headers only.

The file is a safetensors file as mlx-lm writes prompt caches, with metadata that say which model, which options and
which mlx-lm it belongs to, and which token ids it holds. Anything else that differs makes it a miss, never a guess.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import NamedTuple

from mlxk2 import errors
from mlxk2.inspection.files import ModelFiles
from mlxk2.inspection.safetensors import HeaderError, read_header
from mlxk2.inspection.versions import installed_version
from mlxk2.inspection.weights import weight_entries

from .request import EngineOptions

_KIND, _KIND_KEY = "mlxk2 prompt cache 1", ".kind"

# What the cache names large files by.
_CONTENT_HASH = re.compile("[0-9a-f]{64}")

# Pieces of each weight file that go into a model's fingerprint.
_SAMPLES, _SAMPLE_BYTES = 16, 4096
_WHOLE_BYTES = 2**20


class PromptCacheFile(NamedTuple):
    """What a file says of itself: `owner` is the metadata that must match, `ids` what it holds."""

    owner: dict[str, str]
    ids: tuple[int, ...]


def owner_of(files: ModelFiles, options: EngineOptions) -> dict[str, str]:
    """Return the metadata of prompt caches of this model, loaded with these options."""
    cache = options.cache
    return {
        "kind": _KIND,
        "mlx_lm": installed_version("mlx-lm") or "",
        "model": fingerprint(files.ref.path, files),
        "adapter": "" if options.adapter is None else _folder_digest(options.adapter),
        "cache": f"kv_bits={cache.kv_bits} max_kv_size={cache.max_kv_size}",
    }


def fingerprint(folder: Path, files: ModelFiles) -> str:
    """Return a hash of a model's config and of what identifies its weights, which takes milliseconds for any size.

    A file of the cache has its content's hash for a name; of any other file size, time and samples must do.
    """
    digest = hashlib.sha256(json.dumps(files.config, sort_keys=True, default=str).encode())
    names = sorted(entry.name for entry in weight_entries(files))
    for name in [*names, "tokenizer.json"]:
        _add_samples(digest, folder / name)
    return digest.hexdigest()


def read_prompt_cache(path: Path) -> PromptCacheFile | None:
    """Read the header of a prompt cache; None where there is no file.

    Raises: UsageError where the path holds something else, or cannot be written: nothing of the user's is replaced.
    """
    if not path.parent.is_dir():
        raise errors.UsageError(
            f"--prompt-cache: the folder {path.parent} does not exist", hint=f"mkdir -p {path.parent}"
        )
    if not path.exists():
        if not os.access(path.parent, os.W_OK):
            raise errors.UsageError(
                f"--prompt-cache: nothing can be written to {path.parent}", hint="name another file"
            )
        return None
    try:
        if not path.is_file():
            raise ValueError("it is no file")
        metadata = read_header(str(path), path.stat().st_size).metadata
        # mlx-lm puts the metadata it is given under a number, which is not the same in all its versions.
        own = next((key for key, value in metadata.items() if value == _KIND and key.endswith(_KIND_KEY)), None)
        if own is None:
            raise ValueError("it was not written by --prompt-cache")
        start = own[: -len(_KIND_KEY)] + "."
        found = {key[len(start) :]: str(value) for key, value in metadata.items() if key.startswith(start)}
        ids = json.loads(found.pop("ids"))
        if not isinstance(ids, list) or not ids:
            raise ValueError("it does not say what it holds")
        return PromptCacheFile(found, tuple(int(number) for number in ids))
    except (HeaderError, OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as problem:
        raise errors.UsageError(
            f"--prompt-cache: {path} is no prompt cache: {problem}", hint="name another file, or delete this one"
        ) from problem


def _add_samples(digest: hashlib._Hash, path: Path) -> None:
    try:
        blob, about = path.resolve().name, path.stat()
        if _CONTENT_HASH.fullmatch(blob):
            digest.update(f"{path.name}:{blob};".encode())
            return
        size = about.st_size
        digest.update(f"{path.name}:{size}:{about.st_mtime_ns};".encode())
        with path.open("rb") as file:
            if size <= _WHOLE_BYTES:
                digest.update(file.read(_WHOLE_BYTES))
                return
            for number in range(_SAMPLES):
                file.seek((size - _SAMPLE_BYTES) * number // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_BYTES))
    except OSError:
        digest.update(f"{path.name}:-;".encode())


def _folder_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in sorted(os.listdir(folder)):
        _add_samples(digest, folder / name)
    return digest.hexdigest()
