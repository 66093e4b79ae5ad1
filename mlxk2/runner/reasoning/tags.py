"""Reasoning between an opening and a closing tag. Knows no particular tag."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable

from mlxk2.events import ANSWER, REASONING

from .channels import WHITESPACE, MarkerSplitter, ReasoningFormat, Splitter, ends_with_marker


@dataclass(frozen=True)
class Tags(ReasoningFormat):
    """Reasoning after one of `openers` and before `answer_marker`.

    Some models put tags around the answer too: `answer_opener`, then one or more of `answer_closers` at its end.
    `tokens` are those of the vocabulary that the tags are made of, where the tags are no tokens themselves.
    """

    answer_opener: str = ""
    answer_closers: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()

    def splitter(self, prompt_text: str) -> Splitter:
        """Return what splits the text that follows `prompt_text`."""
        return TagSplitter(self, prompt_text)

    def is_open(self, prompt_text: str) -> bool:
        """Return whether the prompt ends with the opening tag."""
        return ends_with_marker(prompt_text, self.openers)

    def is_in_vocabulary(self, is_token: Callable[[str], bool]) -> bool:
        """Return whether the tags are tokens."""
        return all(map(is_token, self.tokens or (*self._tags, *self._answer_tags)))

    def is_in_template(self, template: str) -> bool:
        """Return whether the template writes one of the tags: some only open reasoning, some only cut it out."""
        return any(tag in template for tag in self._tags) and all(tag in template for tag in self._answer_tags)

    @property
    def markers(self) -> tuple[str, ...]:
        """Every text that may be a marker."""
        return (*self._tags, *self._answer_tags)

    @property
    def _tags(self) -> tuple[str, ...]:
        return (*self.openers, self.answer_marker)

    @property
    def _answer_tags(self) -> tuple[str, ...]:
        return (self.answer_opener, *self.answer_closers) if self.answer_opener else ()


class TagSplitter(MarkerSplitter):
    """Splits at tags; a tag that comes where it means nothing is text like any other."""

    def __init__(self, tags: Tags, prompt_text: str) -> None:
        super().__init__(tags.markers)
        self._tags = tags
        # While there is no channel: the whitespace that was said, of which nobody knows yet what it belongs to.
        self._early: list[str] = []
        self._is_wrapped = False
        self._has_reasoned = ends_with_marker(prompt_text, (tags.answer_marker,))
        if tags.is_open(prompt_text):
            self._open_reasoning()
        elif tags.answer_opener and ends_with_marker(prompt_text, (tags.answer_opener,)):
            self._open_wrapped_answer()

    def _take_text(self, text: str) -> None:
        if self._channel is None and not text.strip(WHITESPACE):
            self._early.append(text)
        else:
            self._say(text)

    def _take_marker(self, marker: str) -> None:
        if self._channel is None:
            self._take_first_marker(marker)
        elif self._channel == REASONING:
            self._take_marker_in_reasoning(marker)
        elif self._is_wrapped and marker in self._tags.answer_closers:
            self._writer.write_closer(marker)
        else:
            self._say(marker)

    def _take_end(self) -> None:
        if self._channel is None:
            self._open_answer()
        self._writer.finish()

    def _take_first_marker(self, marker: str) -> None:
        if marker in self._tags.openers:
            self._open_reasoning()
        elif marker == self._tags.answer_marker:
            # The end of reasoning that was never opened, or that the prompt has closed already.
            self._close_reasoning()
        elif marker == self._tags.answer_opener:
            self._open_wrapped_answer()
        else:
            self._say(marker)

    def _take_marker_in_reasoning(self, marker: str) -> None:
        if marker == self._tags.answer_marker:
            self._close_reasoning()
        elif marker not in self._tags.openers or not self._writer.is_fresh:
            self._say(marker)
        # Else the model opens once more what the prompt has opened.

    def _say(self, text: str) -> None:
        if self._channel is None:
            self._open_answer()
        self._writer.write(text)

    def _open_reasoning(self) -> None:
        self._channel = REASONING
        self._early.clear()
        self._writer.begin(REASONING, trimmed=True)

    def _close_reasoning(self) -> None:
        self._channel, self._has_reasoned = None, True
        self._writer.end()

    def _open_wrapped_answer(self) -> None:
        self._is_wrapped = self._has_reasoned = True
        self._open_answer()

    def _open_answer(self) -> None:
        self._channel = ANSWER
        self._writer.begin(ANSWER, trimmed=self._has_reasoned)
        self._writer.write("".join(self._early))
        self._early.clear()
