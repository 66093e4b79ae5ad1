"""Tells tool calls from text as an answer comes.

A call that breaks off after parts of it were told is `CallLost`: it cannot be taken back, so nothing in that answer is
a call from then on. For the same reason only the first call of an answer is told as it comes; further ones are told
when they are complete. So a call that is none never stands beside one that is to be made.
"""

from __future__ import annotations

import json
import re
from typing import Protocol

from mlxk2.runner.markers import MarkerFinder

from .format import PARSER_FAILURES, ToolFormat, Tools
from .json_call import JSON_OBJECT, LONGEST_HEAD, JsonCall
from .parts import CallLost, CallPart, ParsedCall, Told, new_call_id, parsed_calls

_TAG = "<|python_tag|>"
_FIRST_KEYS = ('{"name"', '{"type"', '{"parameters"', '{"arguments"')
_NAME = re.compile(r'\{"name"\s*:\s*"([^"\\]*)"')


class ToolReader(Protocol):
    """Reads one answer. `calls` counts those that are complete; `is_over`: nothing more of the answer is wanted."""

    calls: int
    is_over: bool

    def feed(self, text: str) -> tuple[Told, ...]:
        """Return what can be told now that `text` has come."""

    def finish(self, *, is_cut: bool = False) -> tuple[Told, ...]:
        """Return what was held back, now that no more text will come; with `is_cut` more would have come."""


class MarkedReader:
    """Reads an answer in which calls of `tools` stand between markers. What is no call after all is text.

    White space around calls is dropped. How the text is split when it is fed makes no difference. With `one_call` the
    answer is over with the first one.
    """

    def __init__(self, format: ToolFormat, tools: Tools, *, one_call: bool = False) -> None:
        self.calls = 0
        self.is_over = False
        self._format, self._tools, self._one_call = format, tools, one_call
        self._names = _names(tools)
        self._finder = MarkerFinder(marker for marker in (format.start, format.end) if marker)
        self._call: JsonCall | None = None
        self._is_text_only = False
        # White space that has not been told: it may be what stands before a call.
        self._space: list[str] = []

    def feed(self, text: str) -> tuple[Told, ...]:
        """Return what can be told now that `text` has come."""
        told: list[Told] = []
        for piece in self._finder.feed(text):
            if self.is_over:
                break
            told += self._marker(piece.text) if piece.is_marker else self._text(piece.text)
        return tuple(told)

    def finish(self, *, is_cut: bool = False) -> tuple[Told, ...]:
        """Return what was held back, now that no more text will come; with `is_cut` more would have come."""
        held, call = self._finder.finish(), self._call
        if self.is_over:
            return ()
        # What is held back behind a complete call can only be the beginning of the marker at its end.
        is_ending = is_cut and call is not None and call.is_whole() and self._format.end.startswith(held)
        told = [] if is_ending else list(self._text(held))
        if call is not None:
            told += self._end(call) if is_cut else self._close(call, "")
        space = self._take_space()
        if space and not self.calls:
            told.append(space)
        return tuple(told)

    def _marker(self, marker: str) -> tuple[Told, ...]:
        call = self._call
        if call is not None and call.is_refused and not self._format.end and not call.is_in_string:
            # Nothing else ends it.
            call = self._call = None
        if call is None:
            if marker != self._format.start or self._is_text_only:
                return self._text(marker)
            shape = self._format.shape or JSON_OBJECT
            self._call = JsonCall(self.calls, self._names, shape, tells=not self.calls)
            return ()
        if marker == self._format.end and not call.is_in_string:
            return self._close(call, marker)
        return self._text(marker)

    def _text(self, text: str) -> tuple[Told, ...]:
        if self._call is not None:
            return self._call_text(self._call, text)
        kept = text if self._is_text_only else text.rstrip()
        space = text[len(kept) :]
        if kept:
            kept = self._take_space() + kept
        self._space.append(space)
        return (kept,) if kept else ()

    def _take_space(self) -> str:
        space = "".join(self._space)
        self._space.clear()
        return space

    def _call_text(self, call: JsonCall, text: str) -> tuple[Told, ...]:
        if self._format.shape is None:
            call.add(text)
            return ()
        if call.is_refused:
            call.feed(text)
            return (text,) if text else ()
        parts: tuple[Told, ...] = call.feed(text)
        if call.is_refused:
            return (*parts, *self._no_call(call, ""))
        rest = call.take_rest()
        if rest is not None:
            parts = (*parts, *self._close(call, ""))
        return (*parts, *self._text(rest)) if rest and not self.is_over else parts

    def _close(self, call: JsonCall, end: str) -> tuple[Told, ...]:
        """The call is at its end: tell what has not been told of it, or that it is none."""
        self._call = None
        if call.is_refused:
            return (end,) if end else ()
        if call.is_whole():
            self._count(1)
            return call.remaining()
        if call.name is not None:
            return self._no_call(call, end)
        try:
            found = self._parsed(call.text, is_complete=end == self._format.end)
        except PARSER_FAILURES:
            return self._no_call(call, end)
        first = self.calls
        self._count(len(found))
        return tuple(
            CallPart(first + place, one.id or new_call_id(), one.name, one.arguments) for place, one in enumerate(found)
        )

    def _end(self, call: JsonCall) -> tuple[Told, ...]:
        """The answer was cut in the middle of a call: what came of it is a part of a call."""
        if call.name is None or call.is_refused or call.is_whole():
            return self._close(call, "")
        self._call = None
        self._space.clear()
        return call.remaining()

    def _no_call(self, call: JsonCall, end: str) -> tuple[Told, ...]:
        raw = self._take_space() + self._format.start + call.text + end
        if not call.is_told:
            return (raw,)
        self._is_text_only = True
        return (CallLost(self.calls, raw),)

    def _parsed(self, text: str, *, is_complete: bool) -> tuple[ParsedCall, ...]:
        found = parsed_calls(self._format.parse(text, self._tools))
        # Other parsers than that of JSON make something of everything.
        is_certain = self._format.shape is not None or is_complete
        if not (is_certain and all(one.name in self._names for one in found)):
            raise ValueError("it is no call of a tool")
        return found[:1] if self._one_call else found

    def _count(self, calls: int) -> None:
        self.calls += calls
        self._space.clear()
        self.is_over = self._one_call


class WholeReader:
    """Reads an answer that is one call as a whole, or none: a JSON object that names one of `tools`, without markers."""

    def __init__(self, tools: Tools) -> None:
        self.calls = 0
        self.is_over = False
        self._names = _names(tools)
        self._said: list[str] = []
        self._call = JsonCall(0, self._names, JSON_OBJECT, tells=True)
        self._is_text = self._has_begun = self._has_tag = self._is_decided = False
        # What came last, as long as it may be the beginning of the tag; then the call's, until that is decided.
        self._opening = ""

    def feed(self, text: str) -> tuple[Told, ...]:
        """Return what can be told now that `text` has come."""
        if self._is_text:
            return (text,) if text else ()
        self._said.append(text)
        if not self._has_begun:
            text = self._begin(text)
            self._has_begun = bool(text)
        told = self._call.feed(text)
        return (*told, *self._no_call()) if self._call.is_refused or not self._may_be_call(text) else told

    def finish(self, *, is_cut: bool = False) -> tuple[Told, ...]:
        """Return what was held back, now that no more text will come; with `is_cut` more would have come."""
        call = self._call
        if self._is_text:
            return ()
        if call.is_whole() or (call.name is not None and is_cut):
            self.calls = int(call.is_whole())
            return call.remaining()
        found = self._parsed() if call.name is None else None
        if found is None:
            return self._no_call()
        self.calls = 1
        return (CallPart(0, new_call_id(), found.name, found.arguments),)

    def _begin(self, text: str) -> str:
        """Return what comes behind the tag with which Llama may begin; nothing while that may still come."""
        said, self._opening = (self._opening + text).lstrip(), ""
        if not self._has_tag and said.startswith(_TAG):
            self._has_tag, said = True, said[len(_TAG) :].lstrip()
        if not self._has_tag and _TAG.startswith(said):
            self._opening, said = said, ""
        return said

    def _may_be_call(self, text: str) -> bool:
        """Whether what has come, `text` last, may be the beginning of a call: what cannot is shown as it comes."""
        if self._is_decided or not self._has_begun:
            return True
        self._opening += text
        said = re.sub(r"^\{\s*", "{", self._opening[:LONGEST_HEAD])
        if not any(said.startswith(key) or key.startswith(said) for key in _FIRST_KEYS):
            return False
        name = _NAME.match(said)
        self._is_decided = len(self._opening) >= LONGEST_HEAD or name is not None or said.startswith(_FIRST_KEYS[1:])
        return name is None or name.group(1) in self._names

    def _parsed(self) -> ParsedCall | None:
        try:
            (found,) = parsed_calls(json.loads(self._call.text))
        except PARSER_FAILURES:
            return None
        return found if found.name in self._names else None

    def _no_call(self) -> tuple[Told, ...]:
        self._is_text = True
        raw = "".join(self._said)
        if self._call.is_told:
            return (CallLost(0, raw),)
        return (raw,) if raw else ()


def _names(tools: Tools) -> frozenset[str]:
    return frozenset(tool["function"]["name"] for tool in tools)
