"""From token ids to an answer: decoding, stop strings, reasoning apart from the answer. Knows no engine."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable, NamedTuple

from mlxk2.events import ANSWER, REASONING, Delta, Finished, Timing, Usage

from .prompt import Prompt
from .request import GenerationRequest
from .segments import StopCutter
from .tokenizer import TextTokenizer

if TYPE_CHECKING:
    from .grammar import TokenMask
    from .reasoning import ReasoningFormat


@dataclass(frozen=True)
class PreparedPrompt:
    """A request that fits: its ids, and how many tokens may follow. No weight has been read for it.

    `make_mask` makes what keeps one answer within the request's constraint; `lasting_tokens` counts the ids at the
    beginning with which later turns of the conversation will begin too.
    """

    request: GenerationRequest
    prompt: Prompt
    max_tokens: int
    stop_ids: frozenset[int]
    vocab_size: int
    decoding_context: tuple[int, ...]
    tokenizer: TextTokenizer
    reasoning: ReasoningFormat | None
    make_mask: Callable[[], TokenMask | None]
    lasting_tokens: Callable[[], int]

    @property
    def ids(self) -> tuple[int, ...]:
        """What the model reads. Shape: (T,)."""
        return self.prompt.ids


class TokenChoice(NamedTuple):
    """A token and its natural log probability."""

    token: str
    token_id: int
    logprob: float


class ChosenToken(NamedTuple):
    """The token that was generated, and the likeliest ones in its place, best first.

    Bytes of tokens that are no character are escaped as surrogates.
    """

    token: str
    token_id: int
    logprob: float
    top: tuple[TokenChoice, ...]


def last_ones(tokens: tuple[ChosenToken, ...], text: str) -> tuple[ChosenToken, ...]:
    """Return those of `tokens`, at the end, that say `text`: not the marks before it, which nobody is shown."""
    left, number = len(text.encode("utf-8", "replace")), len(tokens)
    while left > 0 and number > 0:
        number -= 1
        left -= len(tokens[number].token.encode("utf-8", "surrogateescape"))
    return tokens[number:]


@dataclass(frozen=True)
class Answer:
    """What a generation came to. `tokens_per_second` is the decode rate: the prefill does not count.

    `usage.completion_tokens` counts every token that the model produced, the one that ended the text included;
    `usage.cached_tokens` those of the prompt that were in the KV cache already. `reasoning` is None where there was
    none; `logprobs` where they were not asked for; `complete` tells whether a constraint was fulfilled; `stop` is the stop
    string that ended it, if one did.
    """

    text: str
    reasoning: str | None
    finish_reason: str
    usage: Usage
    timing: Timing
    tokens_per_second: float
    logprobs: tuple[ChosenToken, ...] | None = None
    complete: bool = True
    failure: str | None = None
    stop: str | None = None

    @property
    def finished(self) -> Finished:
        """The last event of this generation."""
        return Finished(self.finish_reason, self.usage, self.timing)


class AnswerText:
    """The text of one answer as its tokens come: what of it may be shown, and on which channel.

    `reason` is "length" until something else ends it; after "stop" nothing more is taken. `reasoning_tokens` counts those
    within the reasoning, the mark that opens it included.
    """

    def __init__(self, prepared: PreparedPrompt) -> None:
        self._prepared = prepared
        self._decoder = prepared.tokenizer.decoder(prepared.decoding_context)
        self._cutter = StopCutter(prepared.request.stop)
        self._splitter = None if prepared.reasoning is None else prepared.reasoning.splitter(prepared.prompt.text)
        self._said: dict[str, list[str]] = {ANSWER: [], REASONING: []}
        self.reason = "length"
        self.reasoning_tokens = 0

    def feed(self, token_id: int) -> tuple[Delta, ...]:
        """Return what can be shown now that `token_id` was generated."""
        if token_id in self._prepared.stop_ids:
            self.reason = "stop"
            return ()
        shown = self._cutter.feed(self._decoder.feed(token_id))
        if self._cutter.stopped:
            self.reason = "stop"
        deltas = self._on_channels(shown)
        if self._splitter is not None and self._splitter.is_reasoning:
            self.reasoning_tokens += 1
        return deltas

    def finish(self) -> tuple[Delta, ...]:
        """Return what was held back and turned out to be part of the answer."""
        shown = ""
        if not self._cutter.stopped:
            shown = self._cutter.feed(self._decoder.finish())
            if self._cutter.stopped:
                self.reason = "stop" if self.reason == "length" else self.reason
            else:
                shown += self._cutter.finish()
        deltas = self._on_channels(shown)
        rest = self._noted(self._splitter.finish()) if self._splitter is not None else ()
        return (*deltas, *rest)

    @property
    def answer(self) -> str:
        """The answer so far, without its reasoning."""
        return "".join(self._said[ANSWER])

    @property
    def stop(self) -> str | None:
        """The stop string that ended it, if one did."""
        return self._cutter.found

    @property
    def reasoning(self) -> str | None:
        """The reasoning so far; None where there was none."""
        return "".join(self._said[REASONING]) or None

    def _on_channels(self, text: str) -> tuple[Delta, ...]:
        if not text:
            return ()
        if self._splitter is not None:
            return self._noted(self._splitter.feed(text))
        self._said[ANSWER].append(text)
        return (Delta(ANSWER, text),)

    def _noted(self, pieces: Iterable[tuple[str, str]]) -> tuple[Delta, ...]:
        deltas = tuple(Delta(channel, text) for channel, text in pieces)
        for delta in deltas:
            self._said[delta.channel].append(delta.text)
        return deltas


class Stopwatch:
    """When the prefill began, and when tokens came."""

    def __init__(self) -> None:
        self.tokens = 0
        self._start = self._first = self._last = time.perf_counter()

    def count(self) -> None:
        """Note that a token came."""
        self._last = time.perf_counter()
        self._first = self._first if self.tokens else self._last
        self.tokens += 1

    def timing(self) -> Timing:
        """Return the times so far."""
        first = self._first - self._start if self.tokens else None
        return Timing(time_to_first_token_s=first, generation_time_s=time.perf_counter() - self._start)

    def tokens_per_second(self) -> float:
        """Return the decode rate; of a single token, the rate from the start."""
        decoding = self._last - self._first
        if self.tokens > 1 and decoding > 0:
            return (self.tokens - 1) / decoding
        total = time.perf_counter() - self._start
        return self.tokens / total if total > 0 else 0.0
