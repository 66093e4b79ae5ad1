"""Several sequences decoded by turns, one token each: for models whose sequences cannot be one batch."""

from __future__ import annotations

import copy
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass

from mlxk2.errors import MlxkError
from mlxk2.runner.request import CacheOptions, Decoding
from mlxk2.runner.turn import RowFailed

from .batch import Joined, RowStep
from .engine import Engine, Step
from .kv_state import KVState
from .prefix_store import PrefixStore, Reading, cut_layers


@dataclass
class _Row(Reading):
    state: KVState
    steps: Generator[Step | None, None, None]
    tokens_left: int


class ByTurns:
    """Sequences that are prefilled and decoded one after the other, each a step at a time. Has the methods of Batch."""

    def __init__(self, engine: Engine, options: CacheOptions, store: PrefixStore) -> None:
        self._engine = engine
        self._options = options
        self._store = store
        self._rows: dict[int, _Row] = {}
        self._count = 0

    @property
    def can_be_cut(self) -> bool:
        """Whether what was read of one prompt is of use for every other one that begins alike."""
        return self._engine.new_state(self._options).keeps_everything

    def add(self, prompt_ids: Sequence[int], decoding: Decoding, stops: Sequence[int] = ()) -> Joined:
        """Let a sequence join. Raises: IncompatibleModel."""
        self._engine.check_ids(prompt_ids)
        state = self._engine.new_state(self._options)
        if not state.draft:
            held, layers = self._store.split(prompt_ids)
            # What the store lends is not to be changed, and this sequence goes on in it.
            state.adopt(held, copy.deepcopy(layers))
        row, self._count = self._count, self._count + 1
        read = len(state.ids)
        places = () if state.draft else tuple(sorted({stop for stop in stops if read < stop < len(prompt_ids)}))
        steps = self._steps(prompt_ids, state, decoding, places)
        self._rows[row] = _Row(tuple(prompt_ids), read, places, state, steps, decoding.max_tokens)
        return Joined(row, read)

    @property
    def places(self) -> tuple[tuple[int, int], ...]:
        """How far each row's prompt has been read: `is_being_read` says the same until that changes."""
        return tuple((number, row.read) for number, row in self._rows.items())

    def is_being_read(self, prompt_ids: Sequence[int]) -> bool:
        """Return whether a row is just reading much of what this prompt begins with: it will soon be found in the store."""
        rows: dict[int, Reading] = {number: row for number, row in self._rows.items() if not row.state.draft}
        return self._store.is_coming(prompt_ids, rows, self._take_out if self.can_be_cut else None)

    def remove(self, rows: Iterable[int]) -> None:
        """Let rows leave; those that have left already are no error."""
        for number in rows:
            row = self._rows.pop(number, None)
            if row is not None:
                row.steps.close()
                self._keep(row.state)

    def step(self) -> list[RowStep | RowFailed]:
        """Return the next token of each row that has read its prompt, and let the others read on."""
        found: list[RowStep | RowFailed] = []
        for number, row in list(self._rows.items()):
            try:
                step = next(row.steps)
            except MlxkError as error:
                del self._rows[number]
                found.append(RowFailed(number, error))
                continue
            if step is None:
                row.read = len(row.state.ids)
                continue
            row.read = len(row.ids)
            row.tokens_left -= 1
            found.append(RowStep(number, step, row.tokens_left == 0))
        self.remove([step.row for step in found if isinstance(step, RowStep) and step.is_last])
        return found

    def close(self) -> None:
        """Let go of every row's memory."""
        self.remove(list(self._rows))

    def _steps(
        self, prompt_ids: Sequence[int], state: KVState, decoding: Decoding, stops: Sequence[int]
    ) -> Generator[Step | None, None, None]:
        """Yield None for each part of the prompt that was read, then the tokens."""
        for stop in stops:
            # One id is always left to read.
            for place in self._engine.prefill(prompt_ids[: stop + 1], state):
                if place == stop:
                    # Before anybody sees that it has been read.
                    self._store.insert(prompt_ids[:stop], state.layers)
                yield None
        for _ in self._engine.prefill(prompt_ids, state):
            yield None
        yield from self._engine.decode(prompt_ids, state, decoding)

    def _take_out(self, row: int, length: int) -> None:
        found = self._rows[row]
        held = _length(found.state)
        length = min(length, held)
        self._store.insert(found.ids[:length], cut_layers(found.state.layers, held - length))

    def _keep(self, state: KVState) -> None:
        if state.ids and not state.draft:
            self._store.insert(state.ids, state.layers, is_leaving=True)


def _length(state: KVState) -> int:
    """How many positions the layers hold, which all of them do here."""
    return int(state.layers[0].offset)
