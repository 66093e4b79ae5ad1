"""Tells tool calls from text as an answer comes."""

from __future__ import annotations

import json
from typing import Protocol

from mlxk2.runner.markers import MarkerFinder

from .format import PARSER_FAILURES, ToolFormat, Tools
from .json_call import JsonCall
from .parts import CallLost, CallPart, ParsedCall, Told, new_call_id, parsed_calls


class ToolReader(Protocol):
    """Reads one answer. `calls` counts those that are complete."""

    calls: int

    def feed(self, text: str) -> tuple[Told, ...]:
        """Return what can be told now that `text` has come."""

    def finish(self) -> tuple[Told, ...]:
        """Return what was held back, now that no more text will come."""


class MarkedReader:
    """Reads an answer in which calls stand between markers. What is no call after all is text.

    White space around calls is dropped. How the text is split when it is fed makes no difference.
    """

    def __init__(self, format: ToolFormat, tools: Tools) -> None:
        self.calls = 0
        self._format = format
        self._tools = tools
        self._names = {tool["function"]["name"] for tool in tools}
        self._finder = MarkerFinder(marker for marker in (format.start, format.end) if marker)
        self._begun = 0
        self._call: JsonCall | None = None
        self._space = ""

    def feed(self, text: str) -> tuple[Told, ...]:
        """Return what can be told now that `text` has come."""
        told: list[Told] = []
        for piece in self._finder.feed(text):
            told += self._marker(piece.text) if piece.is_marker else self._text(piece.text)
        return tuple(told)

    def finish(self) -> tuple[Told, ...]:
        """Return what was held back, now that no more text will come."""
        told = list(self._text(self._finder.finish()))
        if self._call is not None:
            told += self._close(self._call, "")
        if self._space and not self._begun:
            told.append(self._space)
        return tuple(told)

    def _marker(self, marker: str) -> tuple[Told, ...]:
        call = self._call
        if call is None:
            if marker != self._format.start:
                return self._text(marker)
            self._call = JsonCall(self._begun)
            return ()
        if marker == self._format.end and not call.is_in_string:
            return self._close(call, marker)
        return self._text(marker)

    def _text(self, text: str) -> tuple[Told, ...]:
        if self._call is not None:
            return self._call.feed(text) if self._format.is_json else self._collect(self._call, text)
        kept = (self._space + text).rstrip()
        if not kept:
            self._space += text
            return ()
        said = self._space + text
        self._space = said[len(kept) :]
        return (kept,)

    def _collect(self, call: JsonCall, text: str) -> tuple[CallPart, ...]:
        call.text += text
        return ()

    def _close(self, call: JsonCall, end: str) -> tuple[Told, ...]:
        """The call is at its end: tell what has not been told of it, or that it is none."""
        self._call = None
        raw = self._space + self._format.start + call.text + end
        if call.has_begun:
            self._begun += 1
            if call.is_whole():
                self._count(1)
                return ()
            self._space = ""
            return (CallLost(self._begun - 1, raw),)
        try:
            found = self._parsed(call.text, is_complete=end == self._format.end)
        except PARSER_FAILURES:
            self._space = ""
            return (raw,)
        first = self._begun
        self._begun += len(found)
        self._count(len(found))
        return tuple(
            CallPart(first + place, one.id or new_call_id(), one.name, one.arguments) for place, one in enumerate(found)
        )

    def _parsed(self, text: str, *, is_complete: bool) -> tuple[ParsedCall, ...]:
        found = parsed_calls(self._format.parse(text, self._tools))
        # Other parsers than that of JSON make something of everything.
        if not self._format.is_json and not (is_complete and all(one.name in self._names for one in found)):
            raise ValueError("it is no call of a tool")
        return found

    def _count(self, calls: int) -> None:
        self.calls += calls
        self._space = ""


class ForcedReader:
    """Reads an answer that must be one call, as a JSON object without markers."""

    def __init__(self) -> None:
        self.calls = 0
        self._call = JsonCall(0)

    def feed(self, text: str) -> tuple[Told, ...]:
        """Return what can be told now that `text` has come."""
        return self._call.feed(text)

    def finish(self) -> tuple[Told, ...]:
        """Return what was held back, now that no more text will come."""
        if self._call.has_begun:
            if self._call.is_whole():
                self.calls = 1
                return ()
            return (CallLost(0, self._call.text),)
        try:
            (found,) = parsed_calls(json.loads(self._call.text))
        except PARSER_FAILURES:
            return (self._call.text,) if self._call.text else ()
        self.calls = 1
        return (CallPart(0, new_call_id(), found.name, found.arguments),)
