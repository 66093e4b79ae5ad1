"""A tool call with its arguments as JSON, which are told while they are being written."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass

from mlxk2.runner import json_answer

from .json_prefix import JsonPrefix
from .parts import CallPart, new_call_id

# No name and what is around it takes more; a longer text is a call only if it is one as a whole.
LONGEST_HEAD = 1024


@dataclass(frozen=True)
class CallShape:
    """What stands before the arguments: a text with the name as its group 1. `is_wrapped`: both are members of an object.

    `is_endless`: the call is over with its arguments, whatever comes behind them. `head` is tried with each token until
    it is found, so it must take linear time; where it lets anything but an object follow, that is no call.
    """

    head: re.Pattern[str]
    is_wrapped: bool
    is_endless: bool = False

    def begin(self, text: str) -> tuple[str, int] | None:
        """Return the name, and where the arguments begin; None as long as that has not come."""
        head = self.head.match(text, 0, LONGEST_HEAD)
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
    re.compile(r"\s*([\w.-]+)\s*(?:\[CALL_ID\]\s*[\w-]+\s*)?\[ARGS\]\s*(?=\S)"), is_wrapped=False, is_endless=True
)


class JsonCall:
    """The call number `index` as its text comes.

    With `tells` its arguments are told as they come: always a beginning of JSON, whose last bracket is told only once
    it is certain that the call is right. `is_refused` says that it is none, whatever else comes.
    """

    def __init__(self, index: int, names: Collection[str], shape: CallShape, *, tells: bool) -> None:
        self.name: str | None = None
        self.is_refused = self.is_told = False
        self._index, self._names, self._shape, self._tells = index, names, shape, tells
        # Nothing is joined before it is needed: a call may come in as many pieces as it has letters.
        self._pieces: list[str] = []
        self._head: str | None = ""
        self._arguments, self._rest = JsonPrefix(), JsonPrefix(inside=True)
        self._arguments_at = self._length = 0
        self._untold: list[str] = []

    @property
    def text(self) -> str:
        """All of it so far; of a refused call up to where that was seen."""
        return "".join(self._pieces)

    @property
    def is_in_string(self) -> bool:
        """Whether the arguments are just within a string, where a marker is nothing but text."""
        return self.name is not None and self._arguments.is_in_string and not self._arguments.is_wrong

    def add(self, text: str) -> None:
        """Take text of a call that is looked at only when it is complete."""
        self._pieces.append(text)

    def feed(self, text: str) -> tuple[CallPart, ...]:
        """Return what can be told now that `text` has come."""
        if not self.is_refused:
            self.add(text)
        if self.name is None:
            text = self._begin(text)
        if self.name is None:
            return ()
        if self.is_refused:
            # Its strings are still none of anybody's marks.
            self._arguments.read(text, 0)
            return ()
        self._follow(text)
        return self._parts(is_all=False) if self._tells else ()

    def take_rest(self) -> str | None:
        """Return what came behind a call that is over with its arguments, and forget it; None while they go on."""
        if not (self._arguments.is_over and self._shape.is_endless):
            return None
        text, end = self.text, self._arguments_at + self._length
        self._pieces = [text[:end]]
        return text[end:]

    def is_whole(self) -> bool:
        """Return whether the call is complete and right."""
        is_wrapped = self._shape.is_wrapped
        if self.is_refused or not self._arguments.is_over or (is_wrapped and not self._rest.is_over):
            return False
        text = self.text
        try:
            arguments = json_answer.parse(text[self._arguments_at : self._arguments_at + self._length])
            # A key may come twice.
            whole = json_answer.parse(text) if is_wrapped else {"name": self.name, "arguments": arguments}
        except ValueError:
            return False
        return bool(whole["name"] == self.name and arguments in (whole.get("arguments"), whole.get("parameters")))

    def remaining(self) -> tuple[CallPart, ...]:
        """Return all that has not been told; of a call that was cut, as far as it came."""
        return self._parts(is_all=True)

    def _begin(self, text: str) -> str:
        """Look for the name; return what came of the arguments."""
        if self._head is None:
            return ""
        self._head += text
        found = self._shape.begin(self._head)
        if found is None:
            self._head = self._head if len(self._head) <= LONGEST_HEAD else None
            return ""
        self.name, self._arguments_at = found
        arguments, self._head = self._head[self._arguments_at :], None
        self.is_refused = self.name not in self._names or not arguments.startswith("{")
        return arguments

    def _follow(self, text: str) -> None:
        """Read on, in the arguments and behind them."""
        if not self._arguments.is_over:
            end = self._arguments.read(text, 0)
            self._untold.append(text[:end])
            self._length += end
            self.is_refused = end < len(text) and not self._arguments.is_over
            text = text[end:]
        if not self._arguments.is_over or self._shape.is_endless:
            return
        if self._shape.is_wrapped and not self._rest.is_over:
            end = self._rest.read(text, 0)
            self.is_refused = end < len(text) and not self._rest.is_over
            text = text[end:]
        self.is_refused = self.is_refused or bool(text.strip())

    def _parts(self, *, is_all: bool) -> tuple[CallPart, ...]:
        parts: list[CallPart] = []
        if not self.is_told:
            self.is_told = True
            parts.append(CallPart(self._index, new_call_id(), self.name, ""))
        untold = "".join(self._untold)
        end = len(untold) - 1 if self._arguments.is_over and untold and not is_all else len(untold)
        self._untold = [untold[end:]]
        if end:
            parts.append(CallPart(self._index, None, None, untold[:end]))
        return tuple(parts)


def _string(literal: str) -> str | None:
    try:
        value = json.loads(literal)
    except ValueError:
        return None
    return value if isinstance(value, str) else None
