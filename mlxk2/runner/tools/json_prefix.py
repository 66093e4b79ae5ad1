"""Follows JSON text as it comes, up to the first character that cannot be JSON. Source: RFC 8259."""

from __future__ import annotations

import re
from typing import Any

from mlxk2.runner import json_answer

_SPACE, _DIGITS, _HEX = " \t\n\r", "0123456789", "0123456789abcdefABCDEF"
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')

# Strings, the last of which may be cut, and single characters.
_PIECES = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[^"]', re.DOTALL)

_NUMBERS = ("zero", "digits", "fraction", "power")
# What is nested deeper, no reader of JSON need follow: Python's gives up at some hundreds.
_DEEPEST = 200

_OPENERS, _CLOSERS = {"{": "first key", "[": "first item"}, {"}": "{", "]": "["}


def _moves() -> dict[str, dict[str, str]]:
    """What may follow in each state; brackets and what comes behind a value are dealt with apart."""
    value = {**dict.fromkeys(_SPACE, "value"), '"': "string", "-": "minus", "0": "zero"}
    value |= {**dict.fromkeys("123456789", "digits"), "t": "rue", "f": "alse", "n": "ull"}
    digits = dict.fromkeys(_DIGITS, "digits")
    moves = {
        "value": value,
        "first item": {**value, **dict.fromkeys(_SPACE, "first item")},
        "first key": {**dict.fromkeys(_SPACE, "first key"), '"': "key"},
        "next key": {**dict.fromkeys(_SPACE, "next key"), '"': "key"},
        "colon": {**dict.fromkeys(_SPACE, "colon"), ":": "value"},
        "after": dict.fromkeys(_SPACE, "after"),
        "minus": {**digits, "0": "zero"},
        "zero": {".": "point", "e": "exponent", "E": "exponent"},
        "digits": {**digits, ".": "point", "e": "exponent", "E": "exponent"},
        "point": dict.fromkeys(_DIGITS, "fraction"),
        "fraction": {**dict.fromkeys(_DIGITS, "fraction"), "e": "exponent", "E": "exponent"},
        "exponent": {**dict.fromkeys("+-", "sign"), **dict.fromkeys(_DIGITS, "power")},
        "sign": dict.fromkeys(_DIGITS, "power"),
        "power": dict.fromkeys(_DIGITS, "power"),
    }
    for state in _NUMBERS:
        moves[state] |= dict.fromkeys(_SPACE, "after")
    for word in ("true", "false", "null"):
        moves |= {word[at:]: {word[at]: word[at + 1 :] or "after"} for at in range(1, len(word))}
    for kind, end in (("string", "after"), ("key", "colon")):
        moves[kind] = {'"': end, "\\": f"{kind} escape"}
        moves[f"{kind} escape"] = {**dict.fromkeys('"\\/bfnrt', kind), "u": f"{kind} 4"}
        for left in (4, 3, 2, 1):
            moves[f"{kind} {left}"] = dict.fromkeys(_HEX, f"{kind} {left - 1}" if left > 1 else kind)
    return moves


_MOVES = _moves()

# Here a value is complete, or may be.
_ENDING = frozenset({"after", *_NUMBERS})
_IN_STRING = frozenset(state for state in _MOVES if state.startswith(("string", "key")))


class JsonPrefix:
    """Follows one object or array, nested no deeper than its readers can follow.

    With `inside` it is the rest of an object, behind the value of one of its members.
    `is_over` once it is complete; `is_wrong` once a character came that cannot be there.
    """

    def __init__(self, *, inside: bool = False) -> None:
        self.is_over = self.is_wrong = False
        self._state = "after" if inside else "value"
        self._open = ["{"] if inside else []

    @property
    def is_in_string(self) -> bool:
        """Whether what comes next is within a string."""
        return self._state in _IN_STRING

    def read(self, text: str, start: int) -> int:
        """Read on from `start`; return where what is right ends: at the end of the text, of the JSON, or before a mistake."""
        at = start
        while at < len(text) and not (self.is_over or self.is_wrong):
            if self._state in ("string", "key"):
                plain = _PLAIN.match(text, at)
                at = plain.end() if plain is not None else at
                if at == len(text):
                    break
            if self._take(text[at]):
                at += 1
            else:
                self.is_wrong = True
        return at

    def _take(self, char: str) -> bool:
        """Go on by one character; return whether it may be there."""
        state = self._state
        found = _MOVES[state].get(char)
        if found is None and state in ("string", "key") and char >= " ":
            found = state
        if found is not None and (self._open or char in _SPACE):
            self._state = found
            return True
        return self._take_structure(state, char)

    def _take_structure(self, state: str, char: str) -> bool:
        if char in _OPENERS and state in ("value", "first item") and len(self._open) < _DEEPEST:
            self._open.append(char)
            self._state = _OPENERS[char]
            return True
        if not self._open:
            return False
        if char == "," and state in _ENDING:
            self._state = "next key" if self._open[-1] == "{" else "value"
            return True
        is_empty = state == _OPENERS[self._open[-1]]
        if _CLOSERS.get(char) == self._open[-1] and (state in _ENDING or is_empty):
            self._open.pop()
            self._state = "after"
            self.is_over = not self._open
            return True
        return False


def is_json(text: str) -> bool:
    """Return whether a text is one JSON object or array, complete, with numbers that every reader can hold."""
    follower = JsonPrefix()
    if follower.read(text, 0) < len(text) or not follower.is_over:
        return False
    try:
        json_answer.parse(text)
    except ValueError:
        return False
    return True


def complete_part(text: str) -> Any:
    """Return the value of JSON that was cut: all members of it that are complete. None where they cannot be read."""
    json_text, end, depth = JsonPrefix(), 0, 0
    for piece in _PIECES.finditer(text):
        if json_text.read(piece.group(), 0) < len(piece.group()):
            break
        state = json_text._state
        if state in ("next key", "value") and piece.group() == ",":
            end, depth = piece.start(), len(json_text._open)
        elif state in ("after", *_OPENERS.values()):
            end, depth = piece.end(), len(json_text._open)
    closers = {opener: closer for closer, opener in _CLOSERS.items()}
    try:
        # A bracket that closes is always noted, so those that were open there are still the first ones.
        return json_answer.parse(
            text[:end] + "".join(closers[bracket] for bracket in reversed(json_text._open[:depth]))
        )
    except ValueError:
        return None
