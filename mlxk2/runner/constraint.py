"""What an answer must be: JSON of a schema, text of a regular expression, or one of several choices. Knows no model."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from mlxk2 import errors

from . import json_answer
from .schema_limits import too_much

JSON_SCHEMA, REGEX, CHOICES = "json_schema", "regex", "choices"

_FLAGS = {JSON_SCHEMA: "--json-schema", REGEX: "--regex", CHOICES: "--choices"}

# No schema that people write is larger; it is read into memory several times.
_MAX_SOURCE_BYTES = 2**20

# Each state of the lexer takes one or two kilobytes; the library's own limit would be half a gigabyte.
_MAX_LEXER_STATES = 50_000

# Models write a space behind colons and commas, and think worse where they may not; more of it would never end.
# `lenient` would ignore what it cannot enforce.
_JSON_OPTIONS = {
    "whitespace_flexible": False,
    "item_separator": ", ?",
    "key_separator": ": ?",
    "coerce_one_of": False,
    "lenient": False,
}
_ESCAPES = 'nrtbf"\\'


@dataclass(frozen=True)
class Constraint:
    """What an answer must be. `source` is a JSON Schema, a regular expression, or a JSON array of choices.

    `field` is what a request calls it, where it did not come from the command line.
    """

    kind: str
    source: str
    field: str | None = field(default=None, compare=False)

    @classmethod
    def json_schema(cls, text: str) -> Constraint:
        """Take a JSON Schema. Raises: UsageError naming the flag."""
        return cls(JSON_SCHEMA, _schema_source(text))

    @classmethod
    def regex(cls, text: str) -> Constraint:
        """Take a regular expression that the whole answer must match. Raises: UsageError naming the flag."""
        if not text:
            raise errors.UsageError("--regex must not be empty")
        return cls(REGEX, _checked_source(REGEX, text))

    @classmethod
    def choices(cls, texts: tuple[str, ...]) -> Constraint:
        """Take the texts that the answer may be, exactly. Raises: UsageError naming the flag."""
        if not texts or not all(texts):
            raise errors.UsageError("--choices needs texts, none of them empty", hint="--choices yes,no,maybe")
        _checked_source(CHOICES, "".join(texts))
        return cls(CHOICES, json.dumps(list(dict.fromkeys(texts))))

    @property
    def flag(self) -> str:
        """How the user asked for it."""
        return self.field or _FLAGS[self.kind]

    def called(self, name: str) -> Constraint:
        """Return the same, under the name that a request has for it."""
        return replace(self, field=name)

    def check(self) -> None:
        """Do nothing if an answer can be held to this.

        Raises: UsageError with llguidance's words, DependencyMissing.
        """
        matcher = _byte_matcher(self).deep_copy()
        matcher.compute_bitmask()
        if matcher.is_stopped() and not matcher.is_accepting():
            raise self._unusable("no answer can ever fulfil it" if leads_nowhere(matcher) else matcher.get_error())

    def matcher(self, tokenizer: Any) -> Any:
        """Return a matcher of llguidance for answers made of this tokenizer's tokens.

        Raises: UsageError with llguidance's words, DependencyMissing.
        """
        from .deep_stack import on_deep_stack

        llguidance = library()
        limits = llguidance.LLParserLimits(max_lexer_states=_MAX_LEXER_STATES, verbose_errors=False)
        try:
            grammar = self._grammar()
            matcher = on_deep_stack(lambda: llguidance.LLMatcher(tokenizer, grammar, log_level=0, limits=limits))
        except ValueError as error:
            raise self._unusable(str(error)) from error
        if matcher.is_error():
            raise self._unusable(matcher.get_error())
        return matcher

    def value(self, text: str) -> Any:
        """Return what the answer `text` stands for: the parsed JSON, or the text itself.

        Raises: ValueError saying why where it is no such answer.
        """
        if self.kind != JSON_SCHEMA:
            if not self._accepts(text):
                raise ValueError(f"it does not match {self.flag}")
            return text
        value = json_answer.parse(text)
        if not self._accepts(json_answer.plain_spelling(text)):
            raise ValueError("it does not fit the schema")
        return value

    def _accepts(self, text: str) -> bool:
        matcher, data = _byte_matcher(self).deep_copy(), list(text.encode("utf-8"))
        return bool(matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting())

    def _grammar(self) -> Any:
        make = library().LLMatcher
        if self.kind == REGEX:
            return make.grammar_from_regex(self.source)
        if self.kind == CHOICES:
            # Strings of Lark are those of JSON; one terminal, since a rule has few alternatives.
            texts = " | ".join(json.dumps(text) for text in json.loads(self.source))
            return make.grammar_from_lark(f"start: CHOICE\nCHOICE: {texts}")
        return make.grammar_from_json_schema(self.source, overrides=self._json_options())

    def _json_options(self) -> dict[str, Any]:
        if _is_old_library():
            # There it lets a property get past a pattern that fits its name too.
            if '"patternProperties"' in self.source and '"properties"' in self.source:
                raise self._unusable("patternProperties beside properties needs Python 3.10 or newer")
            return _JSON_OPTIONS
        # Escaped letters would get past `properties`; only control characters need them.
        needed = "u" if "\\u00" in self.source or "\x7f" in self.source else ""
        return {**_JSON_OPTIONS, "json_allowed_escapes": _ESCAPES + needed}

    def _unusable(self, words: str) -> errors.UsageError:
        lines = [line.strip() for line in words.splitlines() if line.strip()]
        # A regular expression is shown first, and what is wrong with it below.
        reasons = [line[len("error: ") :] for line in lines if line.startswith("error: ")]
        reason = (reasons or lines or ["llguidance refuses it"])[0][:300]
        if "coerce_one_of" in reason:
            reason = "oneOf with options that may both hold cannot be enforced: write anyOf"
        hint = "leave out what cannot be enforced: docs/RUN.md lists it" if self.kind == JSON_SCHEMA else None
        named = {} if self.field is None else {"param": self.field}
        return errors.UsageError(f"{self.flag} cannot be used: {reason}", hint=hint, detail=words[:2000], **named)


def read_schema(argument: str) -> str:
    """Return the text of a schema: of the file `argument`, or `argument` itself where it is JSON.

    Raises: UsageError naming the flag and the file.
    """
    if argument.lstrip().startswith(("{", "[")) or argument.strip() in {"true", "false"}:
        return argument
    if not argument.strip():
        raise errors.UsageError(
            "--json-schema must not be empty", hint='give a file, or the schema itself: {"type": "object"}'
        )
    try:
        with open(Path(argument).expanduser(), "rb") as file:
            data = file.read(_MAX_SOURCE_BYTES + 1)
    except (OSError, ValueError, RuntimeError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise errors.UsageError(
            f"--json-schema: the file {argument} cannot be read: {reason}",
            hint='give a file, or the schema itself: \'{"type": "object"}\'',
        ) from error
    if len(data) > _MAX_SOURCE_BYTES:
        raise errors.UsageError(f"--json-schema: the file {argument} is larger than 1 MiB")
    try:
        text = data.decode("utf-8-sig")
        _parsed_schema(text)
    except ValueError as error:
        raise errors.UsageError(f"--json-schema: the file {argument} is no JSON Schema: {error}") from error
    return text


def split_choices(argument: str) -> tuple[str, ...]:
    """Return the choices in `argument`: split at commas, or a JSON array of strings, for texts with commas."""
    if argument.startswith("["):
        try:
            listed = json.loads(argument)
        except (ValueError, RecursionError):
            listed = None
        if isinstance(listed, list) and all(isinstance(text, str) for text in listed):
            return tuple(listed)
        raise errors.UsageError(
            "--choices: a JSON array of texts has another form", hint='--choices \'["yes, please", "no"]\''
        )
    return tuple(argument.split(","))


def library() -> Any:
    """Return llguidance. Raises: DependencyMissing."""
    try:
        import llguidance
    except ImportError as error:
        raise errors.DependencyMissing(
            f"structured output needs llguidance: {error}", hint="pip install 'mlxk2[structured]'"
        ) from error
    return llguidance


def leads_nowhere(matcher: Any) -> bool:
    """Return whether a matcher has stopped since no token goes on from here."""
    return any(word.startswith("NoExtension") for word in (matcher.stop_reason(), matcher.get_error()))


@lru_cache(maxsize=1)
def _byte_tokenizer() -> Any:
    """One token for each byte: what a text is, whatever the model's tokens are."""
    return library().LLTokenizer("byte")


@lru_cache(maxsize=8)
def _byte_matcher(constraint: Constraint) -> Any:
    """A matcher of bytes that has seen nothing: to compile takes long, a copy does not."""
    return constraint.matcher(_byte_tokenizer())


def _is_old_library() -> bool:
    """Whether llguidance is the release for Python 3.9, which knows fewer options."""
    return not hasattr(library(), "get_version")


def _checked_source(kind: str, text: str) -> str:
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise errors.UsageError(f"{_FLAGS[kind]} is not valid UTF-8 text") from error
    if size > _MAX_SOURCE_BYTES:
        raise errors.UsageError(f"{_FLAGS[kind]} is larger than 1 MiB")
    return text


def _schema_source(text: str) -> str:
    _checked_source(JSON_SCHEMA, text)
    try:
        schema = _parsed_schema(text)
    except ValueError as error:
        raise errors.UsageError(f"--json-schema is no JSON Schema: {error}") from error
    if schema is False:
        raise errors.UsageError("--json-schema cannot be used: no answer can ever fulfil it")
    excess = None if schema is True else too_much(schema)
    if excess is not None:
        raise errors.UsageError(f"--json-schema cannot be used: {excess}")
    source = json.dumps({} if schema is True else schema, ensure_ascii=False, separators=(",", ":"))
    return _checked_source(JSON_SCHEMA, source)


def _parsed_schema(text: str) -> Any:
    schema = json_answer.parse(text)
    if not isinstance(schema, (dict, bool)):
        raise ValueError("it must be an object, true or false")
    return schema
