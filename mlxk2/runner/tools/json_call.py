"""A tool call with its arguments as JSON, which are told while they are being written."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass

from .json_prefix import JsonPrefix
from .parts import CallPart, new_call_id

# No name and what is around it takes more; a longer text is a call only if it is one as a whole.
_LONGEST_HEAD = 1024


@dataclass(frozen=True)
class CallShape:
    """What stands before the arguments: a text with the name as its group 1. `is_wrapped`: both are members of an object.

    `is_endless`: the call is over with its arguments, whatever comes behind them.
    """

    head: re.Pattern[str]
    is_wrapped: bool
    is_endless: bool = False

    def begin(self, text: str) -> tuple[str, int] | None:
        """Return the name, and where the arguments begin; None as long as that has not come."""
        head = self.head.match(text, 0, _LONGEST_HEAD)
        if head is None:
            return None
        name = _string(head.group(1)) if self.is_wrapped else head.group(1)
        return None if not name else (name, head.end())


# The name goes before the arguments, as every template has it; otherwise the call is told when it is complete.
JSON_OBJECT = CallShape(
    re.compile(
        r'\s*\{\s*(?:"type"\s*:\s*"function"\s*,\s*)?"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,'
        r'\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
    ),
    is_wrapped=True,
)
# Source: mistral-common, tokenizers v11 and v13; the id of a call is of no use to anybody.
MISTRAL = CallShape(
    re.compile(r"\s*([\w.-]+)\s*(?:\[CALL_ID\]\s*[\w-]+\s*)?\[ARGS\]\s*(?=\{)"), is_wrapped=False, is_endless=True
)


class JsonCall:
    """The call number `index` as its text comes. `text` is all of it so far.

    With `tells` its arguments are told as they come: always a beginning of JSON, whose last bracket is told only once
    it is certain that the call is right. `is_refused` says that it is none, whatever else comes.
    """

    def __init__(self, index: int, names: Collection[str], shape: CallShape, *, tells: bool) -> None:
        self.text = ""
        self.name: str | None = None
        self.is_refused = self.is_told = False
        self._index, self._names, self._shape, self._tells = index, names, shape, tells
        self._arguments, self._rest = JsonPrefix(), JsonPrefix(inside=True)
        self._arguments_at = self._read = self._told = 0
        self._ends_at: int | None = None

    @property
    def is_in_string(self) -> bool:
        """Whether the arguments are just within a string, where a marker is nothing but text."""
        return self.name is not None and not self.is_refused and self._arguments.is_in_string

    def feed(self, text: str) -> tuple[CallPart, ...]:
        """Return what can be told now that `text` has come."""
        self.text += text
        if self.is_refused or (self.name is None and not self._begin()):
            return ()
        if self._ends_at is None:
            self._read = self._arguments.read(self.text, self._read)
            self._ends_at = self._read if self._arguments.is_over else None
        end = self._read
        if self._ends_at is not None:
            end = self._ends_at - 1
            self._read_rest()
        self.is_refused = self.is_refused or self._read < len(self.text)
        return self._parts(end) if self._tells else ()

    def take_rest(self) -> str | None:
        """Return what came behind a call that is over with its arguments, and forget it; None while they go on."""
        if self._ends_at is None or not self._shape.is_endless:
            return None
        self.text, rest = self.text[: self._ends_at], self.text[self._ends_at :]
        return rest

    def is_whole(self) -> bool:
        """Return whether the call is complete and right."""
        if self.is_refused or self._ends_at is None or not (self._rest.is_over or not self._shape.is_wrapped):
            return False
        try:
            arguments = json.loads(self.text[self._arguments_at : self._ends_at])
            if self._shape.is_wrapped:
                # A key may come twice.
                whole = json.loads(self.text)
                return bool(
                    whole["name"] == self.name and arguments in (whole.get("arguments"), whole.get("parameters"))
                )
        except (ValueError, RecursionError):
            return False
        return True

    def remaining(self) -> tuple[CallPart, ...]:
        """Return all that has not been told; of a call that was cut, as far as it came."""
        return self._parts(self._read if self._ends_at is None else self._ends_at)

    def _begin(self) -> bool:
        """Find the name; return whether the arguments begin, of a tool that there is."""
        found = self._shape.begin(self.text)
        if found is None:
            return False
        name, self._arguments_at = found
        self._read = self._told = self._arguments_at
        self.is_refused = name not in self._names
        self.name = name
        return not self.is_refused

    def _read_rest(self) -> None:
        """Read what comes behind the arguments."""
        if self._shape.is_wrapped:
            self._read = self._rest.read(self.text, self._read)
        if self._shape.is_endless:
            self._read = len(self.text)
        elif self._rest.is_over or not self._shape.is_wrapped:
            self._read = len(self.text) - len(self.text[self._read :].lstrip())

    def _parts(self, end: int) -> tuple[CallPart, ...]:
        parts: list[CallPart] = []
        if not self.is_told:
            self.is_told = True
            parts.append(CallPart(self._index, new_call_id(), self.name, ""))
        if end > self._told:
            parts.append(CallPart(self._index, None, None, self.text[self._told : end]))
            self._told = end
        return tuple(parts)


def _string(literal: str) -> str | None:
    try:
        value = json.loads(literal)
    except ValueError:
        return None
    return value if isinstance(value, str) else None
