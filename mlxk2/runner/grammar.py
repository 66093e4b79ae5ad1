"""Which tokens may come next, so that an answer stays within its constraint. Knows tokens, no engine and no prompt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from mlxk2 import errors

from .constraint import Constraint, leads_nowhere, library

# What models say between their reasoning and their answer.
_BREAKS = ("\n", "\n\n")

_NO_TOKEN = "no token of the model's vocabulary can continue the answer"

_WHITESPACE = b" \t\n\r\f\v"


@dataclass(frozen=True)
class Thinking:
    """How the model may think before it answers, as token ids of the markers.

    `open`: the prompt has opened the reasoning already; else one of `openers` may do so. `closer` ends it.
    """

    open: bool
    openers: tuple[tuple[int, ...], ...]
    closer: tuple[int, ...]


class Grammar:
    """The vocabulary of one model, ready to make masks. `stop_ids` are the tokens that may end an answer."""

    def __init__(self, tokenizer: Any, vocab_size: int, stop_ids: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._size = max(vocab_size, tokenizer.vocab_size)
        self.stop_ids = stop_ids

    @classmethod
    def load(cls, tokenizer_file: Path, vocab_size: int, stop_ids: frozenset[int]) -> Grammar:
        """Read a tokenizer.json; a file that was read before is remembered.

        Raises: IncompatibleModel, DependencyMissing.
        """
        if not stop_ids:
            raise errors.IncompatibleModel("the model has no token that ends an answer, which structured output needs")
        try:
            found = tokenizer_file.stat()
        except OSError as error:
            raise errors.IncompatibleModel(f"tokenizer.json cannot be read: {error.strerror}") from error
        # All stop ids are treated alike below: one is enough for llguidance.
        state = (found.st_mtime_ns, found.st_size)
        return cls(_tokenizer(str(tokenizer_file), state, vocab_size, min(stop_ids)), vocab_size, stop_ids)

    def mask(self, constraint: Constraint, thinking: Thinking | None = None) -> TokenMask:
        """Return the mask for one answer.

        Raises: UsageError with llguidance's words, DependencyMissing.
        """
        return TokenMask(self, _first_state(self._tokenizer, constraint).deep_copy(), thinking)

    def bits(self, ids: Iterable[int]) -> bytes:
        """Return `ids` as packed bits, the lowest id in the lowest bit of the first byte."""
        return bytes(_with(bytearray(self._size // 8 + 1), ids))

    def text_of(self, ids: Iterable[int]) -> bytes:
        """Return the bytes that these tokens stand for."""
        return b"".join(self._tokenizer.decode_bytes([token]) for token in ids)

    def tokenized(self, text: bytes) -> list[int]:
        """Return tokens that stand for `text`."""
        found: list[int] = self._tokenizer.tokenize_bytes(text)
        return found

    @cached_property
    def only_stops(self) -> bytes:
        """The tokens that end an answer, as bits."""
        return self.bits(self.stop_ids)

    @cached_property
    def all_but_stops(self) -> bytes:
        """Every token that exists and does not end an answer, as bits."""
        last = self._size - 1
        # Padding has no text: llguidance shows its number instead.
        while last > 0 and self.text_of([last]) == b"<[%d]>" % last:
            last -= 1
        return self.bits(token for token in range(last + 1) if token not in self.stop_ids)

    @cached_property
    def breaks(self) -> frozenset[int]:
        """The tokens that are nothing but line breaks."""
        found = (self.tokenized(text.encode()) for text in _BREAKS)
        return frozenset(ids[0] for ids in found if len(ids) == 1 and self.text_of(ids).decode() in _BREAKS)


class TokenMask:
    """What may be said next in one answer, and whether what was said is whole.

    `failure` says why nothing sensible can come any more; then only a stop token is allowed.
    """

    def __init__(self, grammar: Grammar, matcher: Any, thinking: Thinking | None) -> None:
        self._grammar = grammar
        self._matcher = matcher
        self._thought: _Thought | None = None
        self._opening: _Opening | None = None
        self._may_break = False
        self._ended = False
        self.failure: str | None = None
        if thinking is not None:
            self._expect(thinking)

    @property
    def complete(self) -> bool:
        """Whether all that was said is a whole answer; reasoning that is still open is none."""
        return self.failure is None and not self._is_thinking and bool(self._matcher.is_accepting())

    def advance(self, ids: Sequence[int]) -> bytes | None:
        """Take the tokens that were said since the last time; return those that may follow, as packed bits.

        None means every token. Never raises: what goes wrong is `failure`.
        """
        for token in ids:
            if self.failure is None and not self._ended:
                self._take(token)
        allowed = self._allowed()
        return self._grammar.only_stops if self.failure is not None else allowed

    @property
    def _is_thinking(self) -> bool:
        return self._thought is not None or (self._opening is not None and self._opening.has_begun)

    def _expect(self, thinking: Thinking) -> None:
        thought = _Thought(self._grammar, thinking.closer)
        if thinking.open:
            self._thought = thought
            return
        own = self._answer_bits()
        # A token that can begin the answer itself cannot be told from a marker.
        openers = tuple(ids for ids in thinking.openers if not _has(own, ids[0]))
        self._opening = _Opening(openers, thought) if openers else None

    def _take(self, token: int) -> None:
        if token in self._grammar.stop_ids:
            self._ended = True
        elif self._thought is not None:
            self._think(self._thought, token)
        elif self._opening is not None and self._opening.take(token):
            if self._opening.is_done:
                self._thought, self._opening = self._opening.thought, None
        else:
            self._opening = None
            self._say(token)

    def _think(self, thought: _Thought, token: int) -> None:
        rest = thought.take(token)
        if rest is None:
            return
        self._thought, self._may_break = None, not rest
        # What one token says behind the marker is said already.
        for said in self._grammar.tokenized(rest.lstrip(_WHITESPACE)):
            self._consume(said)

    def _say(self, token: int) -> None:
        is_break = self._may_break and token in self._grammar.breaks
        self._may_break = False
        if not (is_break and self._matcher.validate_tokens([token]) == 0):
            self._consume(token)

    def _consume(self, token: int) -> None:
        if self.failure is None and not self._matcher.consume_token(token):
            self._fail()

    def _allowed(self) -> bytes:
        grammar = self._grammar
        if self._ended or self.failure is not None:
            return grammar.only_stops
        if self._thought is not None:
            forced = self._thought.forced()
            return grammar.all_but_stops if forced is None else grammar.bits([forced])
        if self._opening is not None and self._opening.has_begun:
            return grammar.bits(self._opening.next_ids())
        allowed = self._answer_bits()
        if self._opening is not None:
            _with(allowed, self._opening.next_ids())
        if self._may_break:
            _with(allowed, grammar.breaks)
        if self.failure is None and not any(allowed):
            self._fail()
        return bytes(allowed)

    def _answer_bits(self) -> bytearray:
        """What the grammar alone allows; it may end where the answer is whole, and nowhere else."""
        allowed = bytearray(self._matcher.compute_bitmask())
        if self._matcher.is_error():
            self._fail()
        for token in self._grammar.stop_ids:
            allowed[token >> 3] &= ~(1 << (token & 7))
        return _with(allowed, self._grammar.stop_ids) if self._matcher.is_accepting() else allowed

    def _fail(self) -> None:
        words = "" if leads_nowhere(self._matcher) else self._matcher.get_error().strip()
        self.failure = words.splitlines()[0][:300] if words else _NO_TOKEN


class _Thought:
    """Reasoning that is open: any text until its closing marker, however that is cut into tokens."""

    def __init__(self, grammar: Grammar, closer: tuple[int, ...]) -> None:
        self._grammar = grammar
        self._marker = grammar.text_of(closer)
        self._beginning, self._last = grammar.text_of(closer[:-1]), closer[-1]
        self._tail = b""

    def take(self, token: int) -> bytes | None:
        """Take a token; return what it says behind the marker, None while there was no marker."""
        said = self._tail + self._grammar.text_of([token])
        place = said.find(self._marker)
        if place < 0:
            self._tail = said[-len(self._marker) :]
            return None
        return said[place + len(self._marker) :]

    def forced(self) -> int | None:
        """Return the token that must come: the last of a marker that has been said up to there."""
        begun = self._beginning and self._tail.endswith(self._beginning)
        return self._last if begun else None


class _Opening:
    """The beginning of an answer that may open `thought` by one of the markers `openers`."""

    def __init__(self, openers: tuple[tuple[int, ...], ...], thought: _Thought) -> None:
        self._openers = openers
        self._said: tuple[int, ...] = ()
        self.thought = thought

    @property
    def has_begun(self) -> bool:
        """Whether a part of a marker has been said."""
        return bool(self._said)

    @property
    def is_done(self) -> bool:
        """Whether a whole marker has been said."""
        return self._said in self._openers

    def take(self, token: int) -> bool:
        """Take a token; return whether it goes on with a marker."""
        said = (*self._said, token)
        possible = tuple(ids for ids in self._openers if ids[: len(said)] == said)
        if possible:
            self._openers, self._said = possible, said
        return bool(possible)

    def next_ids(self) -> frozenset[int]:
        """Return the tokens that go on with a marker."""
        return frozenset(ids[len(self._said)] for ids in self._openers)


@lru_cache(maxsize=2)
def _tokenizer(file: str, _state: tuple[int, int], vocab_size: int, eos_id: int) -> Any:
    """The tokenizer in llguidance's form: a fifth of a second for 49,000 tokens."""
    make = library().LLTokenizer
    try:
        return make(file, n_vocab=vocab_size, eos_token=eos_id)
    except ValueError as error:
        # Some tokenizers know more tokens than the model, which cannot say them.
        if "vocab size too small" not in str(error):
            raise errors.IncompatibleModel(f"structured output cannot use tokenizer.json: {error}") from error
    return make(file, eos_token=eos_id)


@lru_cache(maxsize=8)
def _first_state(tokenizer: Any, constraint: Constraint) -> Any:
    """A matcher that has seen nothing: large schemas take seconds to compile, a copy takes none."""
    return constraint.matcher(tokenizer)


def _with(bits: bytearray, ids: Iterable[int]) -> bytearray:
    for token in ids:
        bits[token >> 3] |= 1 << (token & 7)
    return bits


def _has(bits: bytearray, token: int) -> bool:
    return bool(bits[token >> 3] >> (token & 7) & 1)
