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
from .prefix_store import PrefixStore


@dataclass(frozen=True)
class _Row:
    state: KVState
    steps: Generator[Step | None, None, None]
    budget: list[int]


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
        read, layers = self._store.split(prompt_ids)
        if read and not state.draft:
            # What the store lends is not to be changed, and this sequence goes on in it.
            state.adopt(read, copy.deepcopy(layers))
        row, self._count = self._count, self._count + 1
        steps = self._steps(prompt_ids, state, decoding, max(stops, default=0))
        self._rows[row] = _Row(state, steps, [decoding.max_tokens])
        return Joined(row, len(state.ids))

    def is_being_read(self, _prompt_ids: Sequence[int]) -> bool:
        """Return whether another row is just reading what this prompt begins with; nobody waits for that here."""
        return False

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
            if step is not None:
                row.budget[0] -= 1
                found.append(RowStep(number, step, row.budget[0] == 0))
        self.remove([step.row for step in found if isinstance(step, RowStep) and step.is_last])
        return found

    def close(self) -> None:
        """Let go of every row's memory."""
        self.remove(list(self._rows))

    def _steps(
        self, prompt_ids: Sequence[int], state: KVState, decoding: Decoding, checkpoint_at: int
    ) -> Generator[Step | None, None, None]:
        """Yield None for each part of the prompt that was read, then the tokens."""
        for place in self._engine.prefill(prompt_ids, state, checkpoint_at):
            if place == checkpoint_at and not state.draft:
                self._store.insert(prompt_ids[:place], state.layers)
            yield None
        yield from self._engine.decode(prompt_ids, state, decoding)

    def _keep(self, state: KVState) -> None:
        if state.ids and not state.draft:
            self._store.insert(state.ids, state.layers)
