"""A tool call as a JSON object, whose arguments are told while they are being written."""

from __future__ import annotations

import json
import re

from .parts import CallPart, new_call_id

# The name goes before the arguments, as every template has it; otherwise the call is told when it is complete.
_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)')
_STRUCTURE = re.compile(r'["\\{}\[\]]')


class JsonCall:
    """The call number `index` as its text comes. `text` is all of it so far."""

    def __init__(self, index: int) -> None:
        self.text = ""
        self.has_begun = False
        self._index = index
        self._arguments_at = 0
        self._read = 0
        self._depth = 0
        self._in_string = False
        self._ends_at: int | None = None

    @property
    def is_in_string(self) -> bool:
        """Whether the arguments are just within a string, where a marker is nothing but text."""
        return self.has_begun and self._in_string

    def feed(self, text: str) -> tuple[CallPart, ...]:
        """Return what can be told now that `text` has come."""
        self.text += text
        parts: list[CallPart] = []
        if not self.has_begun:
            head = _HEAD.match(self.text)
            name = _string(head.group(1)) if head is not None else None
            if head is None or not name:
                return ()
            self.has_begun = True
            self._arguments_at = self._read = head.end()
            parts.append(CallPart(self._index, new_call_id(), name, ""))
        start = self._read
        self._scan()
        if self._read > start:
            parts.append(CallPart(self._index, None, None, self.text[start : self._read]))
        return tuple(parts)

    def is_whole(self) -> bool:
        """Return whether the call that has begun is complete and right."""
        if self._ends_at is None or self.text[self._ends_at :].strip() != "}":
            return False
        try:
            json.loads(self.text[self._arguments_at : self._ends_at])
        except (ValueError, RecursionError):
            return False
        return True

    def _scan(self) -> None:
        """Read on to the end of the arguments, as far as it is there."""
        if self._ends_at is not None:
            return
        place = self._read
        while self._ends_at is None:
            found = _STRUCTURE.search(self.text, place)
            if found is None:
                self._read = len(self.text)
                return
            place = found.end()
            if found.group() == "\\" and self._in_string:
                if place == len(self.text):
                    # What is escaped has not come yet.
                    self._read = found.start()
                    return
                place += 1
            else:
                self._note(found.group(), place)
        self._read = self._ends_at

    def _note(self, sign: str, place: int) -> None:
        if sign == '"':
            self._in_string = not self._in_string
        elif not self._in_string and sign in "{[":
            self._depth += 1
        elif not self._in_string and sign in "}]":
            self._depth -= 1
            if self._depth == 0:
                self._ends_at = place


def _string(literal: str) -> str | None:
    try:
        value = json.loads(literal)
    except ValueError:
        return None
    return value if isinstance(value, str) else None
