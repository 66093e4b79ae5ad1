"""What a model remembers of the tokens it has read: KV caches, and the ids that they hold. One sequence."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Callable

from .library import MlxLm

Layers = list[Any]

# Layers that keep every position and only ever append: cutting them back gives what they were.
_APPENDING = ("KVCache", "QuantizedKVCache", "ConcatenateKVCache")

_BLOCK = 512


@dataclass(frozen=True)
class _Checkpoint:
    """The layers as they were after `length` tokens; None stands for one that can be cut back instead."""

    length: int
    layers: tuple[Any, ...]


class KVState:
    """The KV cache of one sequence, kept from one prompt to the next. `draft` is that of a draft model, in step with it.

    `make` and `make_draft` make empty layers. Whatever goes wrong while the layers change, Ctrl-C included, leaves it empty.
    """

    def __init__(
        self, mlx_lm: MlxLm, make: Callable[[], Layers], make_draft: Callable[[], Layers] | None = None
    ) -> None:
        self._mlx_lm = mlx_lm
        self._make = make
        self._make_draft = make_draft
        self._checkpoint: _Checkpoint | None = None
        self.forget()

    def forget(self) -> None:
        """Hold nothing."""
        self._is_whole = False
        self.ids: list[int] = []
        self.layers: Layers = self._make()
        self.draft: Layers = self._make_draft() if self._make_draft is not None else []
        self._checkpoint = None
        self._is_whole = True

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Let the layers be changed. What is not changed to the end, whatever the reason, counts as holding nothing."""
        self._is_whole = False
        yield
        self._is_whole = True

    def adopt(self, ids: Sequence[int], layers: Layers) -> None:
        """Hold `layers`, which somebody else filled with `ids`."""
        self.forget()
        with self.changing():
            self.ids, self.layers = list(ids), layers

    @property
    def keeps_everything(self) -> bool:
        """Whether every layer can be cut back to any earlier length, for ever."""
        return all(type(layer).__name__ in _APPENDING for layer in self.layers)

    def rewind(self, prompt: Sequence[int]) -> int:
        """Go back to what `prompt` begins with, and return how many of its tokens need not be read again.

        At least one token is always left to read. Layers that cannot be cut back go to the checkpoint, or are emptied.
        """
        if not self._is_whole:
            self.forget()
        same = min(common_prefix(self.ids, prompt), len(prompt) - 1)
        with self.changing():
            if same < len(self.ids):
                same = self._cut_to(same) or self._restore(prompt)
            self.ids = list(prompt[:same])
        return same

    def save_checkpoint(self) -> None:
        """Remember the present state, where that is the only way back to it."""
        if self.keeps_everything or self.draft:
            return
        kept = tuple(None if appends(layer) else copy.deepcopy(layer) for layer in self.layers)
        self._checkpoint = _Checkpoint(len(self.ids), kept)

    def begin(self) -> None:
        """Note that somebody changes the layers from now on, until `settle` says what they hold."""
        self._is_whole = False

    def settle(self, ids: Sequence[int]) -> None:
        """Note that the layers hold `ids`; after speculation they may hold fewer, draft and model not the same number."""
        with self.changing():
            self._settle(ids)

    def _settle(self, ids: Sequence[int]) -> None:
        if not self.draft:
            self.ids = list(ids)
            return
        lengths = [_length(layers) for layers in (self.layers, self.draft)]
        if None in lengths:
            self.forget()
            return
        length = min(*(number for number in lengths if number is not None), len(ids))
        for layers, held in zip((self.layers, self.draft), lengths):
            self._mlx_lm.caches.trim_prompt_cache(layers, (held or 0) - length)
        self.ids = list(ids[:length])

    def _cut_to(self, length: int) -> int:
        """Cut every layer back to `length` tokens; 0, and nothing is changed, where they cannot be."""
        layers = [*self.layers, *self.draft]
        if not length or not all(can_be_cut(layer) for layer in layers):
            return 0
        if self._checkpoint is not None and self._checkpoint.length > length:
            self._checkpoint = None
        for layer in layers:
            layer.trim(len(self.ids) - length)
        return length

    def _restore(self, prompt: Sequence[int]) -> int:
        saved = self._checkpoint
        if saved is None or saved.length >= len(prompt) or list(prompt[: saved.length]) != self.ids[: saved.length]:
            self.forget()
            return 0
        for place, layer in enumerate(saved.layers):
            if layer is not None:
                self.layers[place] = copy.deepcopy(layer)
            else:
                self.layers[place].trim(self.layers[place].offset - saved.length)
        return saved.length


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """Return how many items at the beginning are equal."""
    limit = min(len(left), len(right))
    start = 0
    # Whole blocks are compared by the machine's own loop.
    while start < limit and list(left[start : start + _BLOCK]) == list(right[start : start + _BLOCK]):
        start += _BLOCK
    end = min(start + _BLOCK, limit)
    return next((place for place in range(min(start, limit), end) if left[place] != right[place]), end)


def appends(layer: Any) -> bool:
    """Whether a layer keeps every position for ever."""
    return type(layer).__name__ in _APPENDING


def can_be_cut(layer: Any) -> bool:
    """Whether a layer as it is now can be cut back to any earlier length."""
    # A chunked layer says that it can be, but what it dropped at its front does not come back.
    return bool(layer.is_trimmable()) and not hasattr(layer, "start_position")


def _length(layers: Layers) -> int | None:
    """How many tokens the layers hold, None where they do not say."""
    return next((layer.offset for layer in layers if isinstance(getattr(layer, "offset", None), int)), None)
