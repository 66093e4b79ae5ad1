"""What was read of earlier prompts and answers, kept for later ones that begin alike. Knows ids and KV caches only."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable, NamedTuple

import mlx.core as mx

from mlxk2.runner.request import CacheOptions

from .cache_kinds import empty_layers
from .engine import Engine
from .kv_state import Layers, can_be_cut, common_prefix

# Fewer ids are sooner read than kept.
SHORTEST = 32


TakeOut = Callable[[int, int], None]


@dataclass
class Reading:
    """A sequence in the making. `read`: how many ids of its prompt have been read; after `stops` of them it is kept."""

    ids: tuple[int, ...]
    read: int
    stops: tuple[int, ...]


class _Kept(NamedTuple):
    ids: tuple[int, ...]
    layers: Layers
    nbytes: int
    can_be_cut: bool


class PrefixStore:
    """KV caches of sequences that were read, the least recently used ones dropped where they exceed `limit_bytes`.

    Layers that are handed out are not to be changed. `room_bytes` is what memory leaves for them now, None where nobody
    knows: whoever lets sequences come and go keeps it up to date.
    """

    def __init__(self, engine: Engine, options: CacheOptions, limit_bytes: int) -> None:
        self._engine = engine
        self._options = options
        self._limit = limit_bytes
        # The one that was used last is at the end.
        self._kept: list[_Kept] = []
        self.nbytes = 0
        self.room_bytes: int | None = None
        self.hits = 0
        self.misses = 0

    def split(self, prompt_ids: Sequence[int]) -> tuple[list[int], Layers]:
        """Return the ids at the beginning of a prompt that need not be read, and layers that hold them.

        At least one id is always left to read.
        """
        found, length = self._best(prompt_ids)
        if found is None:
            self.misses += 1
            return [], empty_layers(self._engine.model, self._engine.mlx_lm, self._options)
        self.hits += 1
        self._kept.remove(found)
        self._kept.append(found)
        return list(found.ids[:length]), cut_layers(found.layers, len(found.ids) - length)

    def length(self, prompt_ids: Sequence[int]) -> int:
        """Return how many ids of a prompt need not be read."""
        return self._best(prompt_ids)[1]

    def forks(self, prompt_ids: Sequence[int]) -> list[int]:
        """Return where a prompt parts from sequences that were read: what comes before may come again."""
        places = {common_prefix(kept.ids, prompt_ids) for kept in self._kept}
        return sorted(place for place in places if SHORTEST <= place < len(prompt_ids))

    def is_coming(self, prompt_ids: Sequence[int], rows: Mapping[int, Reading], take_out: TakeOut | None) -> bool:
        """Return whether a row is just reading much of what a prompt begins with, so that it will soon be found here.

        `take_out` inserts what a row has read, up to a length; None where only whole parts are of use to others.
        """
        held, is_coming = self.length(prompt_ids), False
        for number, row in rows.items():
            common = min(common_prefix(row.ids, prompt_ids), len(prompt_ids) - 1)
            if common - held < SHORTEST:
                continue
            if take_out is None:
                is_coming = is_coming or any(max(row.read, held + SHORTEST - 1) < stop <= common for stop in row.stops)
            elif row.read < min(common, len(row.ids) - 1):
                is_coming = True
            else:
                take_out(number, common)
                held = self.length(prompt_ids)
        return is_coming

    def insert(self, ids: Sequence[int], layers: Layers, *, is_leaving: bool = False) -> None:
        """Keep `layers`, which hold `ids`, as far as there is room; nobody else may change them afterwards.

        `is_leaving`: their sequence is over, and gives back the memory that it took.
        """
        nbytes = sum(layer.nbytes for layer in layers)
        if is_leaving and self.room_bytes is not None:
            self.room_bytes += nbytes
        most = self._limit if self.room_bytes is None else min(self._limit, self.room_bytes)
        if len(ids) < SHORTEST or not layers or nbytes > most:
            return
        shorter = [old for old in self._kept if common_prefix(old.ids, ids) == len(old.ids)]
        keeps_all = all(map(can_be_cut, layers))
        self._drop([old for old in shorter if keeps_all or len(old.ids) == len(ids)])
        # Before the copy is made.
        self.shrink(most - nbytes)
        own = [_own(layer) for layer in layers]
        kept = _Kept(tuple(ids), own, sum(layer.nbytes for layer in own), keeps_all)
        self._kept.append(kept)
        self.nbytes += kept.nbytes

    def shrink(self, limit_bytes: int) -> None:
        """Drop what was not used for longest until the rest is no more than `limit_bytes`."""
        while self._kept and self.nbytes > limit_bytes:
            self._drop([self._kept[0]])

    def _best(self, prompt_ids: Sequence[int]) -> tuple[_Kept | None, int]:
        most = len(prompt_ids) - 1
        best: tuple[_Kept | None, int] = (None, 0)
        for kept in self._kept:
            length = min(common_prefix(kept.ids, prompt_ids), most)
            is_usable = kept.can_be_cut or length == len(kept.ids)
            if is_usable and length > best[1] and length >= SHORTEST:
                best = (kept, length)
        return best

    def _drop(self, leaving: Sequence[_Kept]) -> None:
        for kept in leaving:
            self._kept.remove(kept)
            self.nbytes -= kept.nbytes


def cut_layers(layers: Layers, count: int) -> Layers:
    """Return layers without their last `count` positions; `layers` stay as they are, and share their arrays with them."""
    shorter = [_shallow(layer) for layer in layers]
    for layer in shorter:
        if count:
            layer.trim(count)
    return shorter


def _shallow(layer: Any) -> Any:
    twin = copy.copy(layer)
    parts = getattr(layer, "caches", None)
    if parts is not None:
        twin.caches = tuple(_shallow(part) for part in parts)
    return twin


def _own(layer: Any) -> Any:
    """Let a layer have arrays of its own: one that was taken out of a batch would keep the whole batch in memory."""
    twin = _shallow(layer)
    _detach(twin)
    return twin


def _detach(layer: Any) -> None:
    for part in getattr(layer, "caches", None) or ():
        _detach(part)
    for name, value in list(vars(layer).items()):
        if isinstance(value, mx.array):
            setattr(layer, name, _copied(value))
        elif isinstance(value, (list, tuple)):
            setattr(layer, name, type(value)(_copied(item) if isinstance(item, mx.array) else item for item in value))


def _copied(array: Any) -> Any:
    # A slice that lies in one piece would be a view of the whole.
    copied = mx.where(mx.array(True), array, array)
    mx.eval(copied)
    return copied
