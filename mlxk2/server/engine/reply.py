"""One answer on its way: each step of the engine becomes what the HTTP side is told. Knows no MLX."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING

from mlxk2.events import ANSWER, Delta
from mlxk2.runner.answer import ChosenToken, PreparedPrompt, last_ones
from mlxk2.runner.tools import CallLost, CallPart, ToolReader
from mlxk2.runner.turn import Turn
from mlxk2.server.protocol import Begun, Over, Piece, RequestEvent, ToolLost, ToolPiece

if TYPE_CHECKING:
    from mlxk2.runner.mlx_backend import Step


class Reply:
    """The answer to the request `id`. `positions`: how many of a KV cache it takes, as far as is known.

    `failures` counts the steps that failed with it in company though nobody was to blame. `turn_ends`: after how many ids
    of its prompt what was read is worth keeping.
    """

    def __init__(
        self,
        id: str,
        prompt: PreparedPrompt,
        positions: int,
        tools: ToolReader | None = None,
        turn_ends: frozenset[int] = frozenset(),
    ) -> None:
        self.id = id
        self.turn_ends = turn_ends
        self.turn = Turn(prompt)
        self.failures = 0
        self._positions = positions
        self._tools = tools
        self._told = self._tokens_told = 0
        # Steps whose text waits until it is told: where no text ends the answer, and no token is told of by itself.
        self._untold: list[Step] = []
        self._can_wait = tools is None and not prompt.request.stop and prompt.request.top_logprobs is None
        self._has_begun = False
        self.is_finished = False

    @property
    def positions(self) -> int:
        """What it takes at least: more than was expected once the answer is longer."""
        return max(self._positions, len(self.turn.prompt.ids) + self.turn.tokens + 1)

    @property
    def is_over(self) -> bool:
        """Whether nothing more is wanted, though the engine could go on."""
        return self.turn.is_over or (self._tools is not None and self._tools.is_over)

    def begin(self, cached_tokens: int) -> tuple[RequestEvent, ...]:
        """The prompt is being read, all but `cached_tokens` of it. Nothing is told when an answer goes on."""
        if self._has_begun:
            return ()
        self._has_begun = True
        self.turn.cached_tokens = cached_tokens
        self.turn.begin()
        return (Begun(self.id, len(self.turn.prompt.ids), cached_tokens),)

    def take(self, step: Step) -> tuple[RequestEvent, ...]:
        """Take a step, and return what is to be told of it at once; `tell` returns the rest."""
        self.turn.note(step)
        self._untold.append(step)
        if self._can_wait and self._tokens_told and step.token not in self.turn.prompt.stop_ids:
            return ()
        return self.tell()

    def tell(self) -> tuple[RequestEvent, ...]:
        """Return what is to be told of the steps since the last time. Raises: GenerationFailed."""
        steps, self._untold = self._untold, []
        deltas = [delta for step in steps for delta in self.turn.say(step)]
        return tuple(self._told_of(_joined(deltas))) if deltas else ()

    def finish(self) -> tuple[RequestEvent, ...]:
        """Return the last events."""
        self.is_finished = True
        turn = self.turn
        events = [*self.tell(), *self._told_of(turn.text.finish())]
        if self.is_over:
            turn.end()
        if self._tools is not None:
            events += map(self._tool_event, self._tools.finish(is_cut=not turn.is_over))
        answer = turn.result()
        has_calls = self._tools is not None and self._tools.calls > 0
        reason = "tool_calls" if has_calls and answer.finish_reason == "stop" else answer.finish_reason
        thoughts = turn.text.reasoning_tokens
        events.append(
            Over(self.id, reason, answer.usage, answer.timing, turn.text.stop, self._value_problem(), thoughts)
        )
        return tuple(events)

    def _told_of(self, deltas: Iterable[Delta]) -> Iterator[RequestEvent]:
        for delta in deltas:
            if self._tools is None or delta.channel != ANSWER:
                yield self._piece(delta.channel, delta.text)
            else:
                yield from map(self._tool_event, self._tools.feed(delta.text))

    def _tool_event(self, found: str | CallPart | CallLost) -> RequestEvent:
        if isinstance(found, CallPart):
            return ToolPiece(self.id, found.index, found.call_id, found.name, found.arguments, self._new_tokens())
        if isinstance(found, CallLost):
            return ToolLost(self.id, found.index, found.text)
        return self._piece(ANSWER, found)

    def _piece(self, channel: str, text: str) -> Piece:
        return Piece(self.id, channel, text, self._new_logprobs(text), self._new_tokens())

    def _new_tokens(self) -> int:
        """How many tokens came since something was told."""
        tokens = self.turn.tokens
        new, self._tokens_told = tokens - self._tokens_told, tokens
        return new

    def _new_logprobs(self, text: str) -> tuple[ChosenToken, ...]:
        """Return those of the tokens that say `text`."""
        if not self.turn.chosen:
            return ()
        found = tuple(self.turn.chosen[self._told :])
        self._told += len(found)
        return last_ones(found, text)

    def _value_problem(self) -> str | None:
        """Say why the answer is not what it was to be."""
        constraint = self.turn.prompt.request.constraint
        if constraint is None:
            return None
        answer = self.turn.result()
        if answer.failure is not None:
            return answer.failure
        try:
            constraint.value(answer.text)
        except ValueError as error:
            return str(error)
        return None


def _joined(deltas: Sequence[Delta]) -> Sequence[Delta]:
    """Make one delta of those that follow each other on one channel."""
    if len(deltas) < 2:
        return deltas
    by_channel = groupby(deltas, attrgetter("channel"))
    return [Delta(channel, "".join(delta.text for delta in group)) for channel, group in by_channel]
