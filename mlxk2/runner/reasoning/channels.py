"""What every format of reasoning has in common: its shape, and how text gets onto the two channels. Knows no format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Callable, Protocol

from mlxk2.events import ANSWER, REASONING

from ..markers import MarkerFinder

# What models put around reasoning. Not str.isspace: an ideographic space at the beginning of an answer is text.
WHITESPACE = " \t\n\r\f\v"

_BETWEEN_PARTS = "\n\n"

ChannelText = tuple[str, str]


class Splitter(Protocol):
    """Tells reasoning from answer in the text of one generation, as it comes."""

    @property
    def is_reasoning(self) -> bool:
        """Whether what comes next is reasoning, as far as is known."""

    def feed(self, text: str) -> tuple[ChannelText, ...]:
        """Return (channel, text) for what is certain now that `text` has come; no text is empty."""

    def finish(self) -> tuple[ChannelText, ...]:
        """Return (channel, text) for what was held back, now that no more text will come."""


@dataclass(frozen=True)
class ReasoningFormat(ABC):
    """One way of models to mark reasoning.

    `openers` may open reasoning at the beginning of an answer; the answer begins after `answer_marker`.
    """

    name: str
    openers: tuple[str, ...]
    answer_marker: str

    @abstractmethod
    def splitter(self, prompt_text: str) -> Splitter:
        """Return what splits the text that follows the rendered prompt `prompt_text`."""

    def with_calls(self) -> ReasoningFormat:
        """Return the format for requests with tools: its calls are in the answer, marked."""
        return self

    @abstractmethod
    def is_open(self, prompt_text: str) -> bool:
        """Return whether after this prompt the answer can only begin with `answer_marker`."""

    @abstractmethod
    def is_in_vocabulary(self, is_token: Callable[[str], bool]) -> bool:
        """Return whether the markers are tokens."""

    @abstractmethod
    def is_in_template(self, template: str) -> bool:
        """Return whether the template writes the markers."""


class ChannelWriter:
    """Puts parts of an answer onto their channels, each without the whitespace around it.

    Whitespace is held back until text follows it. Parts on the same channel are joined by a blank line.
    """

    def __init__(self) -> None:
        self._written: list[ChannelText] = []
        self._spoken: set[str] = set()
        self._held: list[str] = []
        self._channel = ANSWER
        self._is_trimmed = False
        self.is_fresh = True
        self.is_ending = False

    def begin(self, channel: str, *, trimmed: bool) -> None:
        """Begin a part; with `trimmed` whitespace at its beginning is dropped."""
        self.end()
        self._channel, self._is_trimmed, self.is_fresh = channel, trimmed, True

    def write(self, text: str) -> None:
        """Add `text` to the part."""
        spoken = text.rstrip(WHITESPACE)
        if spoken:
            self._say("".join((*self._held, spoken)))
            self.end()
        self._held.append(text[len(spoken) :])

    def write_closer(self, marker: str) -> None:
        """Hold `marker` back: it closes the part, unless text follows it; then it is text itself."""
        self._held.append(marker)
        self.is_ending = True

    def end(self) -> None:
        """End the part: what was held back is not of it."""
        self._held.clear()
        self.is_ending = False

    def finish(self) -> None:
        """End everything: whitespace at the end of an answer that nothing closes belongs to it."""
        if self._channel == ANSWER and not self.is_ending and not (self.is_fresh and self._is_trimmed):
            self._written.append((ANSWER, "".join(self._held)))
        self.end()

    def take(self) -> tuple[ChannelText, ...]:
        """Return what was written since the last time, neighbours on one channel joined."""
        taken: list[tuple[str, list[str]]] = []
        for channel, text in self._written:
            if taken and taken[-1][0] == channel:
                taken[-1][1].append(text)
            else:
                taken.append((channel, [text]))
        self._written.clear()
        joined = ((channel, "".join(texts)) for channel, texts in taken)
        return tuple(pair for pair in joined if pair[1])

    def _say(self, text: str) -> None:
        if self.is_fresh:
            text = text.lstrip(WHITESPACE) if self._is_trimmed else text
            text = _BETWEEN_PARTS + text if self._channel in self._spoken else text
            self._spoken.add(self._channel)
            self.is_fresh = False
        self._written.append((self._channel, text))


class MarkerSplitter(ABC):
    """A splitter that takes text and markers in turn; what they mean is up to the format."""

    def __init__(self, markers: Iterable[str]) -> None:
        self._finder = MarkerFinder(markers)
        self._writer = ChannelWriter()
        self._channel: str | None = None

    @property
    def is_reasoning(self) -> bool:
        """Whether what comes next is reasoning."""
        return self._channel == REASONING

    def feed(self, text: str) -> tuple[ChannelText, ...]:
        """Return (channel, text) for what is certain now that `text` has come."""
        for piece in self._finder.feed(text):
            if piece.is_marker:
                self._take_marker(piece.text)
            else:
                self._take_text(piece.text)
        return self._writer.take()

    def finish(self) -> tuple[ChannelText, ...]:
        """Return (channel, text) for what was held back."""
        rest = self._finder.finish()
        if rest:
            self._take_text(rest)
        self._take_end()
        return self._writer.take()

    @abstractmethod
    def _take_text(self, text: str) -> None:
        """Take text in which no marker is."""

    @abstractmethod
    def _take_marker(self, marker: str) -> None:
        """Take a marker."""

    @abstractmethod
    def _take_end(self) -> None:
        """No more will come."""


def ends_with_marker(prompt_text: str, markers: tuple[str, ...]) -> bool:
    """Return whether the prompt ends with one of `markers`; one that stands elsewhere may be the user's own word."""
    return prompt_text.rstrip(WHITESPACE).endswith(markers)
