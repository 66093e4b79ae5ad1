"""The harmony format of gpt-oss: messages with a header each, whose channel says whether it is the answer."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Callable

from mlxk2.events import ANSWER, REASONING

from ..harmony_marks import CALL, CALL_ARGUMENTS, CALL_START, CHANNEL, CONSTRAIN, END, MESSAGE, RETURN, ROLE, START
from .channels import WHITESPACE, MarkerSplitter, ReasoningFormat, Splitter, ends_with_marker

_ENDS = (END, RETURN, CALL)
_MARKERS = (START, CHANNEL, CONSTRAIN, MESSAGE, *_ENDS)

_CHANNELS = {"analysis": REASONING, "commentary": REASONING, "final": ANSWER}
_CHANNEL_NAME = re.compile("|".join(_CHANNELS))

# Where a message goes to may stand before and after the channel: " to=functions.weather".
_RECIPIENT = re.compile(r"\s*to=\S*")
_FUNCTION = re.compile(r"to=functions\.([^\s<]+)")

# No header is longer; a text that is has lost its <|message|>.
_LONGEST_HEADER = 256


@dataclass(frozen=True)
class Harmony(ReasoningFormat):
    """Reasoning on the channels "analysis" and "commentary", the answer on "final".

    With `tells_calls` messages to a function are in the answer as well, each with one and the same kind of header.
    """

    tells_calls: bool = False

    def splitter(self, prompt_text: str) -> Splitter:
        """Return what splits the text that follows `prompt_text`."""
        return HarmonySplitter(prompt_text, tells_calls=self.tells_calls)

    def with_calls(self) -> ReasoningFormat:
        """Return the format for requests with tools."""
        return replace(self, tells_calls=True)

    def is_open(self, prompt_text: str) -> bool:
        """Return whether the prompt ends where a message of the model begins, or within its reasoning."""
        return ends_with_marker(prompt_text, (START + ROLE,)) or _open_channel(prompt_text) == REASONING

    def is_in_vocabulary(self, is_token: Callable[[str], bool]) -> bool:
        """Return whether the marks of a header are tokens."""
        return is_token(CHANNEL) and is_token(MESSAGE)

    def is_in_template(self, template: str) -> bool:
        """Return whether the template writes the marks of a header."""
        return CHANNEL in template and MESSAGE in template


FORMAT = Harmony(
    name="harmony",
    openers=tuple(f"{CHANNEL}{name}{MESSAGE}" for name, channel in _CHANNELS.items() if channel == REASONING),
    answer_marker=f"{CHANNEL}final{MESSAGE}",
)


def _open_channel(prompt_text: str) -> str | None:
    """The channel of the message that the prompt opens with its last words; None if it opens none."""
    if not ends_with_marker(prompt_text, (MESSAGE,)):
        return None
    header = prompt_text[-_LONGEST_HEADER:].rpartition(START)[2].rpartition(MESSAGE)[0]
    return _Header(tuple(re.split(f"({re.escape(CHANNEL)}|{re.escape(CONSTRAIN)})", header))).channel


class _Header:
    """What stands before a message, in pieces: texts, and the markers <|channel|> and <|constrain|>."""

    def __init__(self, pieces: tuple[str, ...] = ()) -> None:
        self._role: list[str] = []
        self._label: list[str] | None = None
        self._constraint: list[str] | None = None
        self.length = 0
        for piece in pieces:
            self.add(piece)

    def add(self, piece: str) -> None:
        """Take the next piece."""
        self.length += len(piece)
        if piece == CHANNEL:
            self._label, self._constraint = [], None
        elif piece == CONSTRAIN:
            self._constraint = []
        elif self._constraint is not None:
            self._constraint.append(piece)
        else:
            (self._role if self._label is None else self._label).append(piece)

    @property
    def channel(self) -> str:
        """Where the message belongs; without a name that is known it is answer."""
        name = _CHANNEL_NAME.search("".join(self._label or ()))
        return _CHANNELS[name.group()] if name else ANSWER

    @property
    def function(self) -> str | None:
        """The name of the function that the message goes to; None where it goes to none."""
        found = _FUNCTION.search("".join(self._role)) or _FUNCTION.search("".join(self._label or ()))
        return found and found.group(1)

    def stranded(self) -> tuple[str | None, str]:
        """Return channel and text of a message whose <|message|> is missing; channel None where it has no name.

        What can be the beginning of a true header is no text.
        """
        if self._label is None:
            name, rest = None, _without_beginning("".join(self._role), (ROLE,))
        else:
            label = "".join(self._label).lstrip(WHITESPACE)
            found = _CHANNEL_NAME.match(label)
            name, rest = found and found.group(), _without_beginning(label, tuple(_CHANNELS))
        recipient = _RECIPIENT.match(rest)
        rest = rest[recipient.end() :] if recipient else rest
        if self._constraint is not None:
            rest += re.sub(r"^\s*[A-Za-z]*", "", "".join(self._constraint))
        return (_CHANNELS[name] if name else None), rest


def _without_beginning(text: str, words: tuple[str, ...]) -> str:
    """`text` without the word of `words` that it begins with, or that it is the beginning of."""
    text = text.lstrip(WHITESPACE)
    for word in words:
        if text.startswith(word):
            return text[len(word) :]
        if word.startswith(text):
            return ""
    return text


def _may_be_recipient(text: str) -> bool:
    return "to=".startswith(text) or (text.startswith("to=") and len(text.split()) == 1)


class HarmonySplitter(MarkerSplitter):
    """Splits messages by the channels in their headers.

    Models make mistakes in headers. Text outside of messages, or in one of no known channel, is answer; a message
    without <|message|> is on the channel that it names. Within the answer every marker is text, except that its end
    counts where nothing follows, or the next message.
    """

    def __init__(self, prompt_text: str, *, tells_calls: bool = False) -> None:
        super().__init__(_MARKERS)
        self._tells_calls = tells_calls
        self._is_call = False
        # What is being read: a header, a message on a channel, or neither.
        self._header: _Header | None = None
        # Where the text of a header belongs that turns out to be none.
        self._fallback = ANSWER
        # Before a header: whitespace, and what may be the recipient.
        self._early: list[str] = []
        self._is_first = True
        channel = _open_channel(prompt_text)
        if channel is not None:
            self._open(channel)

    def _take_text(self, text: str) -> None:
        if self._header is not None:
            self._take_header_text(self._header, text)
        elif self._channel is None:
            self._take_early(text)
        else:
            self._writer.write(text)

    def _take_marker(self, marker: str) -> None:
        if self._channel == ANSWER:
            self._take_marker_in_answer(marker)
        elif marker in _ENDS:
            self._leave()
        elif marker == MESSAGE:
            self._begin_message()
        elif self._header is not None and marker != START:
            self._header.add(marker)
        elif marker != CONSTRAIN:
            self._begin_header(marker)

    def _take_marker_in_answer(self, marker: str) -> None:
        if marker in _ENDS:
            self._writer.write_closer(marker)
        elif marker == START and self._writer.is_ending:
            self._begin_header(marker)
        else:
            self._writer.write(marker)

    def _take_end(self) -> None:
        if self._header is not None:
            self._give_up(self._header)
        elif self._channel is None:
            self._release_early()
        if self._writer.is_ending:
            self._end_call()
        self._writer.finish()

    def _take_header_text(self, header: _Header, text: str) -> None:
        room = max(_LONGEST_HEADER - header.length, 0)
        header.add(text[:room])
        if text[room:]:
            self._give_up(header)
            self._writer.write(text[room:])

    def _take_early(self, text: str) -> None:
        self._early.append(text)
        if text.strip(WHITESPACE):
            early = "".join(self._early)
            self._early = [early]
            if len(early) > _LONGEST_HEADER or not _may_be_recipient(early.strip(WHITESPACE)):
                self._release_early()

    def _release_early(self) -> None:
        """Say what came before a header as answer."""
        early = "".join(self._early)
        if early:
            self._open(ANSWER, trimmed=not self._is_first)
            self._writer.write(early)

    def _begin_header(self, marker: str) -> None:
        in_reasoning = marker == CHANNEL and self._channel == REASONING
        early = "".join(self._early)
        self._leave_for_header()
        self._fallback = REASONING if in_reasoning else ANSWER
        self._header = _Header((early, marker) if marker == CHANNEL else ())

    def _begin_message(self) -> None:
        if self._channel is not None:
            return
        function = self._header.function if self._header is not None and self._tells_calls else None
        self._open(ANSWER if self._header is None or function else self._header.channel)
        if function:
            self._is_call = True
            self._writer.write(CALL_START + function + CALL_ARGUMENTS)

    def _end_call(self) -> None:
        """Close a call; what the model closed it with, if anything, may be another marker."""
        if self._is_call:
            self._is_call = False
            self._writer.end()
            self._writer.write(CALL)

    def _leave_for_header(self) -> None:
        if "".join(self._early).lstrip(WHITESPACE).startswith("to="):
            self._early.clear()
        self._leave()

    def _leave(self) -> None:
        """Leave whatever is being read."""
        if self._header is not None:
            self._give_up(self._header)
        elif self._channel is None:
            self._release_early()
        self._end_call()
        self._channel = None
        self._writer.end()

    def _give_up(self, header: _Header) -> None:
        """Show what a header hides that no message follows."""
        channel, text = header.stranded()
        self._open(channel or self._fallback)
        self._writer.write(text)

    def _open(self, channel: str, *, trimmed: bool = True) -> None:
        self._header, self._channel, self._is_first = None, channel, False
        self._early.clear()
        self._writer.begin(channel, trimmed=trimmed)
