"""Errors as clients of OpenAI's and of Anthropic's API expect them. Knows no framework but pydantic's list of problems."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from mlxk2.errors import ContextLengthExceeded, MlxkError, UsageError


class BadRequest(MlxkError):
    """The request is not what the API takes; `param` names the field."""

    type = "invalid_request"
    http_status = 400


class Unauthorized(MlxkError):
    """The API key is missing or wrong."""

    type = "invalid_api_key"
    http_status = 401


class Forbidden(MlxkError):
    """The request comes from where none may come from."""

    type = "forbidden"
    http_status = 403


class BodyTooLarge(MlxkError):
    """The body of the request is larger than the server takes."""

    type = "request_too_large"
    http_status = 413


class NotJson(MlxkError):
    """The body is something else than JSON in UTF-8, as it is."""

    type = "unsupported_media_type"
    http_status = 415


class BodyTooSlow(MlxkError):
    """The body of the request did not arrive in time."""

    type = "body_timeout"
    http_status = 408


class NoSuchRoute(MlxkError):
    """There is nothing under that address."""

    type = "not_found"
    http_status = 404


class MethodNotAllowed(MlxkError):
    """The address is right, the method is not."""

    type = "method_not_allowed"
    http_status = 405


class ClientGone(MlxkError):
    """Nobody waits for the answer any more."""

    type = "client_gone"
    http_status = 499


# Flags of the command line that go by another name in a request.
_FIELDS = {
    "logprobs": "top_logprobs", "json_schema": "response_format", "regex": "response_format", "choices": "response_format",
}  # fmt: skip
# What these are about; of a prompt that is too long each API has a name of its own.
_OF_THE_MODEL = frozenset({
    "model_not_found", "ambiguous_match", "hash_not_found", "model_not_cached", "model_unhealthy", "incompatible_model",
})  # fmt: skip
TOO_LONG = ContextLengthExceeded.type
_NAMED = re.compile(r"(prompt|suffix|messages|tools|tool_choice|input): ")
_FLAG = re.compile(r"--([a-z][a-z-]*[a-z])")
# As pydantic says what a field may be.
_JSON_WORDS = {"True": "true", "False": "false", "None": "null"}
_PYTHON_WORD = re.compile(r"\b(True|False|None)\b(?!')")
# Of what a client calls a field, which can be anything.
_LONGEST_NAME = 80

_OPENAI_TYPES = {
    401: "authentication_error", 403: "permission_error", 429: "rate_limit_error", 499: "request_cancelled",
}  # fmt: skip
_ANTHROPIC_TYPES = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error", 413: "request_too_large",
    429: "rate_limit_error", 503: "overloaded_error", 504: "timeout_error",
}  # fmt: skip


def code_of(error: MlxkError) -> str:
    """Return the name that programs know an error by."""
    return BadRequest.type if error.type == UsageError.type else error.type


def openai_error(error: MlxkError, names: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the body of an answer that says so. `names` are the request's own words for fields, and for its prompt."""
    message, param = _in_words_of_the_api(error, names or {})
    status = error.http_status
    kind = _OPENAI_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code_of(error)}}


def anthropic_error(error: MlxkError, names: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the body of an answer that says so, in Anthropic's shape."""
    message, _ = _in_words_of_the_api(error, names or {})
    status = error.http_status
    kind = _ANTHROPIC_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": message}}


def retry_headers(error: MlxkError) -> dict[str, str]:
    """Return what tells a client when to come again."""
    seconds = error.extra.get("retry_after_s")
    if isinstance(seconds, (int, float)) and not isinstance(seconds, bool):
        return {"retry-after": str(max(1, round(seconds)))}
    return {"retry-after": "1"} if error.http_status in (429, 503) else {}


def bad_fields(problems: Iterable[Mapping[str, Any]], data: Any) -> BadRequest:
    """Say what pydantic found wrong with `data`: of several problems the one that lies deepest."""
    found = [(field_path(problem, data), _problem_words(problem)) for problem in problems]
    deepest = max(len(path) for path, _ in found)
    path = next(path for path, _ in found if len(path) == deepest)
    words = dict.fromkeys(words for other, words in found if other == path)
    name = ".".join(str(part)[:_LONGEST_NAME] for part in path)
    return BadRequest(f"{name or 'the body'}: {' or '.join(words)}", param=name or None)


def field_path(problem: Mapping[str, Any], data: Any) -> tuple[Any, ...]:
    """Return where a problem lies, without the parts of pydantic's own words that are no fields."""
    path: list[Any] = []
    location = problem["loc"]
    for number, part in enumerate(location):
        is_last = number == len(location) - 1
        if isinstance(data, dict) and (part in data or (is_last and problem["type"] == "missing")):
            path.append(part)
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            path.append(part)
            data = data[part]
    return tuple(path)


def _problem_words(problem: Mapping[str, Any]) -> str:
    if problem["type"] == "extra_forbidden":
        return "this field is not supported"
    words = str(problem["msg"]).replace(" after validation", "").replace("a valid dictionary", "an object")
    if problem["type"] == "literal_error":
        words = _PYTHON_WORD.sub(lambda match: _JSON_WORDS[match[0]], words)
    words = words[len("Value error, ") :] if words.startswith("Value error, ") else words
    return words[:1].lower() + words[1:]


def _in_words_of_the_api(error: MlxkError, names: Mapping[str, str]) -> tuple[str, str | None]:
    """Return the message with its hint, flags of the command line renamed, and the field that it is about."""
    message, code = error.message, code_of(error)
    param = error.extra.get("param") or ("model" if code in _OF_THE_MODEL else None)
    if code == TOO_LONG:
        param = names.get(TOO_LONG)
    if code == BadRequest.type:

        def renamed(match: re.Match[str]) -> str:
            name = match[1].replace("-", "_")
            return names.get(name) or _FIELDS.get(name, name)

        flag = _FLAG.search(message)
        if param is None and flag:
            param = renamed(flag)
        message = _FLAG.sub(renamed, message)
        named = _NAMED.match(message)
        if named:
            name = names.get(named[1], named[1])
            param, message = param or name, name + message[named.end(1) :]
    if error.hint and not _FLAG.search(error.hint) and "mlxk2 " not in error.hint:
        message = f"{message}; {error.hint}"
    return message, param if isinstance(param, str) else None
