"""The input of a batch: a file with one prompt a line, as JSON. Checked as a whole, then read line by line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Union

from mlxk2.errors import UsageError
from mlxk2.operations.batch_ledger import Ledger
from mlxk2.runner.request import Message

Id = Union[str, int]

# Longer than any context can hold; what is longer is no file of prompts.
LONGEST_LINE_BYTES = 16 * 2**20

_ROLES = ("system", "user", "assistant")
_EXAMPLE = 'a line is {"id": "1", "prompt": "..."} or {"id": "1", "messages": [{"role": "user", "content": "..."}]}'
_BROKEN = "has half a surrogate pair (\\ud800 to \\udfff), which is no text"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class PromptLine:
    """One line: either `prompt` or `messages` is given."""

    id: Id
    prompt: str | None
    messages: tuple[Message, ...] | None

    @property
    def question(self) -> str:
        """The prompt, or the last message's text."""
        return self.messages[-1].content if self.messages is not None else self.prompt or ""

    @property
    def fingerprint(self) -> str:
        """A text that is another one where the prompt is."""
        turns = [[message.role, message.content] for message in self.messages or ()]
        return fingerprint([self.prompt, turns])


@dataclass(frozen=True)
class PromptFile:
    """A file of prompts. With `needs_text` messages are refused: there is no template to put them into."""

    path: Path
    needs_text: bool = False

    def check(self, ledger: Ledger) -> None:
        """Read the whole file and note every id. Raises: UsageError naming the line."""
        if self.path.exists() and not self.path.is_file():
            raise UsageError(f"--input: {self.path} is no file, and prompts are read twice", hint=_EXAMPLE)
        for number, line in self._numbered():
            earlier = ledger.add(line.id, number, line.fingerprint)
            if earlier is not None:
                raise self._wrong(number, f"id {json.dumps(line.id)} is that of line {earlier} too")

    def lines(self) -> Iterator[PromptLine]:
        """Yield the prompts, one at a time. Raises: UsageError where the file has changed since it was checked."""
        for _, line in self._numbered():
            yield line

    def _numbered(self) -> Iterator[tuple[int, PromptLine]]:
        try:
            with self.path.open("rb") as file:
                for number, raw in enumerate(self._raw_lines(file), start=1):
                    text = raw[len(_BYTE_ORDER_MARK) :] if number == 1 and raw.startswith(_BYTE_ORDER_MARK) else raw
                    if text.strip():
                        yield number, self._parsed(number, text)
        except OSError as error:
            raise UsageError(f"--input: {self.path} cannot be read: {error.strerror}", hint=_EXAMPLE) from error

    def _raw_lines(self, file: BinaryIO) -> Iterator[bytes]:
        number = 0
        while True:
            number += 1
            raw = file.readline(LONGEST_LINE_BYTES + 1)
            if not raw:
                return
            if len(raw) > LONGEST_LINE_BYTES:
                raise self._wrong(number, f"it is longer than {LONGEST_LINE_BYTES} bytes")
            yield raw

    def _parsed(self, number: int, raw: bytes) -> PromptLine:
        try:
            value = json.loads(raw.decode("utf-8"), object_pairs_hook=_without_repetition)
        except UnicodeDecodeError as error:
            raise self._wrong(number, "it is not UTF-8 text") from error
        except _RepeatedKey as error:
            raise self._wrong(number, str(error)) from error
        except (ValueError, RecursionError) as error:
            raise self._wrong(number, f"it is no JSON: {error}") from error
        try:
            return _line_of(value, self.needs_text)
        except ValueError as error:
            raise self._wrong(number, str(error)) from error

    def _wrong(self, number: int, what: str) -> UsageError:
        return UsageError(f"{self.path}, line {number}: {what}", hint=_EXAMPLE)


def fingerprint(value: Any) -> str:
    """Return a short text that is another one where the JSON value is."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def is_id(value: Any) -> bool:
    """Whether a JSON value may be the id of a line: a text that can be written, or a whole number."""
    if isinstance(value, str):
        return bool(value) and not _is_broken(value)
    return isinstance(value, int) and not isinstance(value, bool)


class _RepeatedKey(ValueError):
    """A JSON object has two values of one name; a parser would take either."""


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise _RepeatedKey(f"key {json.dumps(repeated)} is there twice")
    return value


def _is_broken(text: str) -> bool:
    """Whether a text has half a surrogate pair, which JSON can spell and no tokenizer can read."""
    return any("\ud800" <= char <= "\udfff" for char in text)


def _line_of(value: Any, needs_text: bool) -> PromptLine:
    """Raises: ValueError saying what is wrong."""
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")
    unknown = sorted(set(value) - {"id", "prompt", "messages"})
    if unknown:
        raise ValueError(f"unknown key {json.dumps(unknown[0])}")
    if value.get("id") == "":
        raise ValueError('"id" must not be empty')
    if not is_id(value.get("id")):
        raise ValueError('"id" is neither a text nor a whole number' if "id" in value else '"id" is missing')
    if ("prompt" in value) == ("messages" in value):
        raise ValueError('either "prompt" or "messages" must be there')
    if "messages" in value:
        if needs_text:
            raise ValueError('"messages" need the chat template, which --no-chat-template leaves out')
        return PromptLine(value["id"], None, _messages(value["messages"]))
    prompt = value["prompt"]
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError('"prompt" is empty' if isinstance(prompt, str) else '"prompt" is no text')
    if _is_broken(prompt):
        raise ValueError(f'"prompt" {_BROKEN}')
    return PromptLine(value["id"], prompt, None)


def _messages(value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError('"messages" is no list of messages')
    messages = []
    for place, item in enumerate(value, start=1):
        if not isinstance(item, dict) or set(item) != {"role", "content"}:
            raise ValueError(f'message {place} is no object with "role" and "content" alone')
        if item["role"] not in _ROLES:
            raise ValueError(f"message {place}: the role must be one of {', '.join(_ROLES)}")
        if not isinstance(item["content"], str):
            raise ValueError(f'message {place}: "content" is no text')
        if _is_broken(item["content"]):
            raise ValueError(f'message {place}: "content" {_BROKEN}')
        messages.append(Message(item["role"], item["content"]))
    return tuple(messages)
