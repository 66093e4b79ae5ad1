"""Many requests to one model, answered side by side as far as memory allows. Knows no file and no envelope."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, Union

from mlxk2 import errors
from mlxk2.events import Event, Warned

from .answer import Answer, PreparedPrompt
from .request import GenerationRequest
from .runner import MLXRunner
from .speech import backend
from .turn import Turn

if TYPE_CHECKING:
    from .mlx_backend import Batch, RowStep

Key = TypeVar("Key")

# What is wrong with one request; everything else is wrong with all of them.
_OF_ONE_REQUEST = (errors.ContextLengthExceeded, errors.GenerationFailed, errors.InsufficientMemory, errors.UsageError)


class Room(Protocol):
    """What the machine's memory has room for; positions are those of a KV cache."""

    def expected(self, prompt: PreparedPrompt) -> int:
        """Return how many positions prompt and answer will take."""

    def rows(self, positions: int) -> int:
        """Return how many sequences of so many positions fit side by side."""

    def check(self, positions: int) -> None:
        """Do nothing where one sequence of so many positions fits. Raises: InsufficientMemory."""


@dataclass(frozen=True)
class Done(Generic[Key]):
    """What became of a request."""

    key: Key
    outcome: Union[Answer, errors.MlxkError]


@dataclass(frozen=True)
class _Pending(Generic[Key]):
    """A request that has been read, and has no row; `positions` is what it will take."""

    key: Key
    prompt: PreparedPrompt
    positions: int


@dataclass(frozen=True)
class _Row(Generic[Key]):
    pending: _Pending[Key]
    turn: Turn

    @property
    def positions(self) -> int:
        """What it takes at least, which is more than was expected once the answer is longer."""
        return max(self.pending.positions, len(self.pending.prompt.ids) + self.turn.tokens + 1)


class BatchRun(Generic[Key]):
    """Answers requests in the order in which they are done, at most `width` of them at a time.

    Requests are taken when there is room for them and not before. A request whose answer grows beyond what was
    expected makes the youngest ones wait and start again. What fails in company is tried once more alone. Where the
    model cannot answer several at a time, they are answered one after the other.

    `most_rows` is how many were answered at a time.
    """

    def __init__(
        self, runner: MLXRunner, requests: Iterable[tuple[Key, GenerationRequest]], room: Room, width: int
    ) -> None:
        self.most_rows = 0
        self._runner = runner
        self._requests = iter(requests)
        self._room = room
        self._width = width
        self._is_tried = self._has_failed = False
        self._waiting: deque[_Pending[Key]] = deque()
        self._batch: Batch | None = None
        self._rows: dict[int, _Row[Key]] = {}

    def run(self) -> Generator[Union[Done[Key], Warned], None, None]:
        """Yield what becomes of each request, and a warning where they cannot be answered side by side.

        KeyboardInterrupt ends it; answers that are not complete by then are lost.

        Raises: IncompatibleModel, DependencyMissing, for what no request can change.
        """
        try:
            while True:
                yield from self._admit()
                if self._batch is None or not self._rows:
                    return
                yield from self._advance(self._batch)
        finally:
            self._close()

    def _advance(self, batch: Batch) -> Iterator[Union[Done[Key], Warned]]:
        steps, failure = None, ""
        try:
            steps = batch.step()
        except errors.GenerationFailed as error:
            failure = error.message
        if steps is None:
            yield from self._warn_once(failure)
            # Only now that the error is gone is nothing held any more of what it left.
            yield from self._each_alone()
            return
        yield from self._take(batch, steps)
        self._shed(batch)

    def _admit(self) -> Iterator[Union[Done[Key], Warned]]:
        """Start as many as there is room for; what cannot be answered side by side is answered at once."""
        while len(self._rows) < self._width:
            if not self._waiting:
                request = next(self._requests, None)
                if request is None:
                    return
                try:
                    self._waiting.append(self._prepared(*request))
                except _OF_ONE_REQUEST as error:
                    yield Done(request[0], error)
                    continue
            if self._rows and not self._has_room(self._waiting[0]):
                return
            yield from self._start(self._waiting.popleft())

    def _prepared(self, key: Key, request: GenerationRequest) -> _Pending[Key]:
        prompt = self._runner.prepare(request)
        positions = self._room.expected(prompt)
        self._room.check(positions)
        return _Pending(key, prompt, positions)

    def _has_room(self, pending: _Pending[Key]) -> bool:
        return len(self._rows) < self._rows_that_fit(pending.positions)

    def _rows_that_fit(self, positions: int = 0) -> int:
        """How many rows fit, one with `positions` among them: all take as much as the widest."""
        widest = max(positions, *(row.positions for row in self._rows.values()))
        kept = 0 if self._batch is None else self._batch.rows_kept
        return self._room.rows(widest) - kept

    def _start(self, pending: _Pending[Key]) -> Iterator[Union[Done[Key], Warned]]:
        if self._batch is None and self._width > 1:
            yield from self._open(pending)
        if self._batch is None:
            self.most_rows = max(self.most_rows, 1)
            yield self._alone(pending)
            return
        try:
            turn = Turn(pending.prompt)
            row, turn.cached_tokens = self._batch.add(pending.prompt.ids, turn.decoding())
        except _OF_ONE_REQUEST as error:
            yield Done(pending.key, error)
            return
        turn.begin()
        self._rows[row] = _Row(pending, turn)
        self.most_rows = max(self.most_rows, len(self._rows))

    def _open(self, first: _Pending[Key]) -> Iterator[Warned]:
        engine, cache = self._runner.engine(), self._runner.options.cache
        obstacle = None
        if not self._is_tried:
            self._is_tried = True
            obstacle = backend().batch_obstacle(engine, cache, first.prompt.ids)
        if obstacle is not None:
            self._width = 1
            yield Warned(f"one prompt after the other: {obstacle}")
            return
        self._batch = backend().Batch(engine, cache, self._width)

    def _take(self, batch: Batch, steps: list[RowStep]) -> Iterator[Done[Key]]:
        """Hand each step to its row; rows that are over leave."""
        over: list[int] = []
        for number, step, is_last in steps:
            row = self._rows[number]
            row.turn.take(step)
            if is_last or row.turn.is_over:
                over.append(number)
        batch.remove(over)
        for number in over:
            row = self._rows.pop(number)
            row.turn.text.finish()
            yield Done(row.pending.key, row.turn.result())

    def _shed(self, batch: Batch) -> None:
        """Let the youngest rows wait where answers have become so long that not all of them fit any more."""
        if len(self._rows) < 2:
            return
        leaving = list(self._rows)[max(self._rows_that_fit(), 1) :]
        batch.remove(leaving)
        for number in reversed(leaving):
            self._waiting.appendleft(self._rows.pop(number).pending)

    def _warn_once(self, failure: str) -> Iterator[Warned]:
        if not self._has_failed:
            self._has_failed = True
            yield Warned(f"prompts failed side by side, and are answered one by one where they do: {failure}")

    def _each_alone(self) -> Iterator[Done[Key]]:
        """Answer one by one what failed together: only what is to blame fails again.

        Where nothing does, there were too many: the rest goes on with half the width.
        """
        together = [row.pending for row in self._rows.values()]
        self._close()
        has_culprit = False
        for pending in together:
            done = self._alone(pending)
            has_culprit = has_culprit or isinstance(done.outcome, errors.MlxkError)
            yield done
        if not has_culprit:
            self._width = max(self._width // 2, 1)

    def _close(self) -> None:
        self._rows.clear()
        if self._batch is not None:
            self._batch.close()
            self._batch = None

    def _alone(self, pending: _Pending[Key]) -> Done[Key]:
        try:
            answer = _end_of(self._runner.answer(pending.prompt))
        except _OF_ONE_REQUEST as error:
            return Done(pending.key, error)
        if answer.finish_reason == "interrupted":
            raise KeyboardInterrupt
        return Done(pending.key, answer)


def _end_of(steps: Generator[Event, None, Answer]) -> Answer:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            answer: Answer = end.value
            return answer
