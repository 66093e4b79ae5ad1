"""KV caches in files, as mlx-lm writes them. Whether a file may be used is decided before it comes here."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import mlx.core as mx

from mlxk2 import errors

from .kv_state import KVState
from .library import ENGINE_FAILURES, MlxLm


def load_state(mlx_lm: MlxLm, path: Path, ids: Sequence[int], state: KVState) -> bool:
    """Let `state` hold what the file holds, which is `ids`; False where the file is damaged or of another shape."""
    kinds = [type(layer).__name__ for layer in state.layers]
    try:
        with _known_ending(path) as named:
            layers = mlx_lm.caches.load_prompt_cache(str(named))
            mx.eval([layer.state for layer in layers])
    except ENGINE_FAILURES:
        return False
    if [type(layer).__name__ for layer in layers] != kinds:
        return False
    state.adopt(ids, layers)
    return True


@contextmanager
def _known_ending(path: Path) -> Iterator[Path]:
    """Give the file a name for a while that tells mlx its format."""
    with TemporaryDirectory() as folder:
        named = Path(folder) / "prompt.safetensors"
        named.symlink_to(path.resolve())
        yield named


def save_state(mlx_lm: MlxLm, path: Path, state: KVState, owner: Mapping[str, str]) -> None:
    """Write what `state` holds, complete or not at all.

    Raises: OutputFailed.
    """
    # mlx appends the ending where a name has another one.
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}.safetensors")
    try:
        metadata = {**owner, "ids": json.dumps(state.ids)}
        mlx_lm.caches.save_prompt_cache(str(partial), state.layers, metadata)
        os.replace(partial, path)
    except ENGINE_FAILURES as error:
        raise errors.OutputFailed(f"the prompt cache {path} could not be written: {error}", file=str(path)) from error
    finally:
        with suppress(OSError):
            partial.unlink()
