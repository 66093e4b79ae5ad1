"""Which requests are answered now, which wait, and what becomes of them when a step fails. Knows no connection."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sized
from contextlib import suppress
from typing import TYPE_CHECKING

from mlxk2 import errors
from mlxk2.runner.speech import backend
from mlxk2.runner.turn import RowFailed
from mlxk2.server.protocol import Failed, Generate, Problem, RequestEvent, Status

from .embedding import Embedder
from .model import ReadPrompt, ServedModel
from .reply import Reply

if TYPE_CHECKING:
    from mlxk2.runner.mlx_backend import Batch, ByTurns, RowStep

# A request that is near so many failures, though it succeeds alone, is given up.
_MOST_FAILURES = 3

# Where there were too many rows, half of them go on; after so many steps that went well it may be more again.
# Each time that this was wrong it takes twice as long.
_STEPS_UNTIL_WIDER = 128

# After so many steps it is looked whether all rows still fit.
_STEPS_BETWEEN_LOOKS = 16

# So many tokens show that a request does no harm: the engine computes one ahead.
_PROBE_TOKENS = 2


class Scheduler:
    """Answers requests side by side, in the order in which they came as far as there is room.

    `coming`: requests that are still being read; they count as waiting.
    """

    def __init__(self, model: ServedModel, coming: Sized = ()) -> None:
        self._model, self._coming = model, coming
        self._width = model.spec.max_concurrency
        self._batch: Batch | ByTurns | None = None
        self._waiting: deque[Reply] = deque()
        self._rows: dict[int, Reply] = {}
        self._embedder = Embedder(model)
        self._events: list[RequestEvent] = []
        self._steps = 0
        self._steps_until_wider = _STEPS_UNTIL_WIDER
        self._good_steps = 0
        # Requests that wait for another one's prompt, and how far the rows were when that was found.
        self._asked: dict[str, object] = {}

    @property
    def is_busy(self) -> bool:
        """Whether there is something to do."""
        return bool(self._rows or self._waiting or self._embedder)

    @property
    def is_even(self) -> bool:
        """Whether the next step will take about as long as the last one: all rows say something, none reads its prompt."""
        return bool(self._rows) and not self._embedder and all(reply.turn.tokens for reply in self._rows.values())

    def events(self, *, with_text: bool = True) -> tuple[RequestEvent, ...]:
        """Return what is to be told since the last time; without text, what cannot wait."""
        if with_text:
            self._tell_text()
        told, self._events = tuple(self._events), []
        return told

    def status(self) -> Status:
        """Return how the engine is."""
        figures, store = backend().memory_figures(), self._model.store
        return Status(
            running=len(self._rows),
            waiting=len(self._waiting) + len(self._embedder) + len(self._coming),
            steps=self._steps,
            active_bytes=figures.active,
            peak_bytes=figures.peak,
            cached_bytes=figures.cached,
            prefix_bytes=store.nbytes,
            prefix_hits=store.hits,
            prefix_misses=store.misses,
        )

    def check_queue(self) -> None:
        """Do nothing where one more request may come. Raises: QueueFull."""
        spec, waiting = self._model.spec, len(self._waiting) + len(self._coming)
        if len(self._rows) + waiting >= spec.max_concurrency + spec.max_queue:
            raise errors.QueueFull(f"{waiting} requests wait already")

    def generate(self, command: Generate, read: ReadPrompt) -> None:
        """Take a request that was read. Raises: MlxkError where it cannot be answered."""
        self._waiting.append(self._model.reply(command.id, command.request, read))

    def embed(self, id: str, texts: list[tuple[int, ...]]) -> None:
        """Take texts to embed."""
        self._events += self._embedder.take(id, texts)

    def cancel(self, id: str) -> None:
        """Forget a request; one that is unknown is over already."""
        self._embedder.cancel(id)
        self._events = [event for event in self._events if event.id != id]
        self._waiting = deque(reply for reply in self._waiting if reply.id != id)
        self._asked.pop(id, None)
        self._leave([row for row, reply in self._rows.items() if reply.id == id])

    def step(self) -> None:
        """Let requests join, and all of them go on by one token."""
        if self._embedder:
            self._events += self._embedder.step()
            self._steps += 1
        self._admit()
        if self._batch is None or not self._rows:
            return
        steps: list[RowStep | RowFailed] | None = None
        try:
            steps = list(self._batch.step())
        except errors.MlxkError as error:
            failure = Problem.of(error)
        if steps is None:
            # Only now that the error is gone is nothing held any more of what it left.
            self._recover(failure)
            return
        self._steps += 1
        self._widen()
        for step in steps:
            self._take(step)
        if self._steps % _STEPS_BETWEEN_LOOKS == 0:
            self._shed()
            self._make_room(self._rows.values())

    def _admit(self) -> None:
        for reply in list(self._waiting):
            if len(self._rows) >= self._width:
                return
            if self._rows and not self._has_room(reply):
                return
            if self._batch is None:
                self._batch = self._model.batch(self._model.spec.max_concurrency)
            if self._is_being_read(self._batch, reply):
                continue
            self._waiting.remove(reply)
            self._join(self._batch, reply)

    def _is_being_read(self, batch: Batch | ByTurns, reply: Reply) -> bool:
        """Whether a row is just reading much of its prompt; asked again only once the rows have read on."""
        places = batch.places
        if self._asked.get(reply.id) == places:
            return True
        self._asked.pop(reply.id, None)
        is_read = batch.is_being_read(reply.turn.ids)
        if is_read:
            self._asked[reply.id] = places
        return is_read

    def _join(self, batch: Batch | ByTurns, reply: Reply) -> None:
        self._make_room([reply, *self._rows.values()])
        ids = reply.turn.ids
        try:
            stops = () if batch.can_be_cut else self._stops(reply)
            row, cached = batch.add(ids, reply.turn.decoding(), stops)
        except errors.MlxkError as error:
            self._fail(reply, Problem.of(error))
            return
        self._rows[row] = reply
        self._events += reply.begin(cached)

    def _stops(self, reply: Reply) -> list[int]:
        """After how many ids of its prompt others may go on: later turns, and prompts that begin alike."""
        ids, common = reply.turn.ids, backend().common_prefix
        forks = {common(ids, other.turn.ids) for other in self._waiting} | set(self._model.store.forks(ids))
        forks |= reply.turn_ends
        return sorted(place for place in forks if place >= backend().SHORTEST)

    def _has_room(self, reply: Reply) -> bool:
        widest = max(reply.positions, *(row.positions for row in self._rows.values()))
        return self._model.room.holds(len(self._rows) + 1, widest)

    def _make_room(self, replies: Iterable[Reply]) -> None:
        """What was read before gives way to what is asked now."""
        widths = [reply.positions for reply in replies]
        store, left = self._model.store, self._model.room.left(len(widths), max(widths, default=0))
        store.room_bytes = left
        if left is not None:
            store.shrink(left)

    def _widen(self) -> None:
        """Let more rows go on side by side again where fewer have done well for long."""
        most = self._model.spec.max_concurrency
        self._good_steps = self._good_steps + 1 if self._width < most else 0
        if self._good_steps >= self._steps_until_wider:
            self._width, self._good_steps = min(self._width * 2, most), 0
            for reply in (*self._rows.values(), *self._waiting):
                reply.failures = 0

    def _take(self, step: RowStep | RowFailed) -> None:
        reply = self._rows.get(step.row)
        if reply is None:
            return
        if isinstance(step, RowFailed):
            del self._rows[step.row]
            self._fail(reply, Problem.of(step.error))
            return
        if self._tell(reply, step):
            self._leave([step.row])

    def _tell(self, reply: Reply, step: RowStep) -> bool:
        """Tell of a step; return whether the answer is over."""
        try:
            self._events += reply.take(step.step)
            if not (step.is_last or reply.is_over):
                return False
            self._events += reply.finish()
        except errors.MlxkError as error:
            self._fail(reply, Problem.of(error))
        return True

    def _tell_text(self) -> None:
        """Let the answers say what they have kept back."""
        for row, reply in list(self._rows.items()):
            try:
                self._events += reply.tell()
            except errors.MlxkError as error:
                self._leave([row])
                self._fail(reply, Problem.of(error))

    def _shed(self) -> None:
        """Let the youngest rows wait where answers have become so long that not all of them fit any more."""
        while len(self._rows) > 1:
            widest = max(row.positions for row in self._rows.values())
            if self._model.room.holds(len(self._rows), widest + _STEPS_BETWEEN_LOOKS):
                return
            youngest = list(self._rows)[-1]
            reply = self._rows[youngest]
            self._leave([youngest])
            self._wait_again(reply)

    def _wait_again(self, reply: Reply) -> None:
        """Let an answer go on later, as the next one; what it has said is told before."""
        try:
            self._events += reply.tell()
        except errors.MlxkError as error:
            self._fail(reply, Problem.of(error))
        else:
            self._waiting.appendleft(reply)

    def _leave(self, rows: Iterable[int]) -> None:
        leaving = list(rows)
        if leaving and self._batch is not None:
            self._batch.remove(leaving)
        for row in leaving:
            self._rows.pop(row, None)

    def _recover(self, failure: Problem) -> None:
        """Find out which of the rows that failed together is to blame; the others go on.

        Where none is, there were too many: the rest goes on with half the width.
        """
        suspects, self._rows = list(self._rows.values()), {}
        self._close()
        harmless = [reply for reply in suspects if self._goes_on_alone(reply)]
        if len(harmless) == len(suspects):
            self._width, self._good_steps = max(self._width // 2, 1), 0
            self._steps_until_wider *= 2
            for reply in harmless:
                reply.failures += 1
        for reply in reversed(harmless):
            if reply.failures >= _MOST_FAILURES:
                self._fail(reply, failure)
            elif not reply.is_finished:
                self._wait_again(reply)

    def _goes_on_alone(self, reply: Reply) -> bool:
        """Let a reply go on by a few tokens; return whether nothing went wrong."""
        try:
            self._batch = self._model.batch(1)
            row, cached = self._batch.add(reply.turn.ids, reply.turn.decoding())
            self._events += reply.begin(cached)
            tokens, is_over = 0, False
            while tokens < _PROBE_TOKENS and not is_over:
                for step in self._batch.step():
                    if isinstance(step, RowFailed):
                        raise step.error
                    tokens, is_over = tokens + 1, is_over or self._tell(reply, step)
        except errors.MlxkError as error:
            self._fail(reply, Problem.of(error))
            return False
        finally:
            self._close()
        return True

    def _fail(self, reply: Reply, problem: Problem) -> None:
        with suppress(errors.MlxkError):
            self._events += reply.tell()
        self._events.append(Failed(reply.id, problem))

    def _close(self) -> None:
        batch, self._batch = self._batch, None
        if batch is not None:
            batch.close()
