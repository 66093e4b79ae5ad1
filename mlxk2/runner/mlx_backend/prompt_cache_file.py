"""KV caches in files, as mlx-lm writes them. Whether a file may be used is decided before it comes here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlx.core as mx

from mlxk2 import errors
from mlxk2.aside import written_aside

from .kv_state import KVState
from .library import ENGINE_FAILURES, MlxLm


def load_state(mlx_lm: MlxLm, path: Path, ids: Sequence[int], state: KVState, expected: Sequence[Any]) -> bool:
    """Let `state` hold what the file holds, which is `ids`; False where it is damaged or not of the model's shape.

    `expected`: layers of the model that have read something; how much does not matter.
    """
    try:
        with _known_ending(path) as named:
            layers = mlx_lm.caches.load_prompt_cache(str(named))
            mx.eval([layer.state for layer in layers])
        fits = len(layers) == len(expected) and all(map(_fits, layers, expected, repeat(len(ids))))
    except ENGINE_FAILURES:
        return False
    if fits:
        state.adopt(ids, layers)
    return fits


def _fits(layer: Any, expected: Any, length: int) -> bool:
    """Whether a layer is of the kind, the types and the sizes of one of this model's, and holds so many positions."""
    offset = getattr(layer, "offset", length)
    return type(layer) is type(expected) and offset == length and _outline(layer) == _outline(expected)


def _outline(layer: Any) -> list[Any]:
    """Type and sizes of every array but for the number of positions, which is the last but one of four dimensions."""
    return [
        (value.dtype, (*value.shape[:2], value.shape[-1]) if value.ndim == 4 else value.shape)
        for value in _arrays(layer.state)
    ]


def _arrays(state: Any) -> Iterator[Any]:
    if isinstance(state, mx.array):
        yield state
    elif isinstance(state, (list, tuple)):
        for part in state:
            yield from _arrays(part)


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
    metadata = {**owner, "ids": json.dumps(state.ids)}
    try:
        # It holds the prompt, which is nobody else's business. mlx appends the ending where a name has another one.
        with written_aside(path.resolve(), 0o600, ending=".safetensors") as fresh:
            mlx_lm.caches.save_prompt_cache(str(fresh), state.layers, metadata)
    except ENGINE_FAILURES as error:
        raise errors.OutputFailed(f"the prompt cache {path} could not be written: {error}", file=str(path)) from error
