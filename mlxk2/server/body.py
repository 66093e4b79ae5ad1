"""The body of a request: bounded, UTF-8, JSON that every reader understands alike, and then the fields of a schema."""

from __future__ import annotations

import asyncio
from typing import Any, Callable, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request

from mlxk2.server.errors import BadRequest, BodyTooLarge, BodyTooSlow, ClientGone, NotJson, bad_fields
from mlxk2.server.schemas.strict import NoFields
from mlxk2.server.settings import ServerSettings
from mlxk2.server.strict_json import DEEPEST, NotAlike, parse

Schema = TypeVar("Schema", bound=BaseModel)

# Of a body that is to be empty.
_MOST_OF_NOTHING = 4096
_CHARSETS = ("utf-8", "utf8", "us-ascii")

# As many token ids as no model reads, and little enough that what parses them, all at once, holds up nobody for long.
_MOST_VALUES = 2**20


async def read_body(request: Request, settings: ServerSettings, take: Callable[[int], None]) -> bytes:
    """Return the request's body as it came; `take` is told the size of each part, and may raise.

    Raises: NotJson, BodyTooLarge, BodyTooSlow, ClientGone.
    """
    _check_kind(request.headers)
    return await _in_time(request, settings, settings.max_body_bytes, take)


async def check_nothing_asked(request: Request, settings: ServerSettings) -> None:
    """Do nothing where a request has no body, or an empty object. Raises: as `read_body` and `understood` do."""
    raw = await _in_time(request, settings, min(_MOST_OF_NOTHING, settings.max_body_bytes), lambda size: None)
    if raw:
        _check_kind(request.headers)
        understood(raw, NoFields)


async def _in_time(request: Request, settings: ServerSettings, limit: int, take: Callable[[int], None]) -> bytes:
    try:
        return await asyncio.wait_for(_read(request, limit, take), settings.body_timeout_s)
    except asyncio.TimeoutError as error:
        raise BodyTooSlow(f"the body did not arrive within {settings.body_timeout_s:g} s") from error
    except ClientDisconnect as error:
        raise ClientGone("the client went away") from error


def _check_kind(headers: Headers) -> None:
    """Raises: NotJson where the headers say that the body is anything else than JSON in UTF-8, as it is."""
    kind, *parameters = (part.strip().lower() for part in headers.get("content-type", "").split(";"))
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise NotJson(f"the content type must be application/json, not {kind[:60] or 'missing'}")
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        charset = value.strip().strip('"')
        if name.strip() == "charset" and charset not in _CHARSETS:
            raise NotJson(f"the charset must be utf-8, not {charset[:60] or 'missing'}")
    for coding in ",".join(headers.getlist("content-encoding")).split(","):
        if coding.strip().lower() not in ("", "identity"):
            raise NotJson(f"the content encoding must be identity, not {coding.strip()[:60]}: send the JSON as it is")


async def _read(request: Request, limit: int, take: Callable[[int], None]) -> bytes:
    said = request.headers.get("content-length", "")
    if said.isascii() and said.isdigit() and (len(said) > 18 or int(said) > limit):
        raise _too_large(limit)
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        take(len(part))
        parts.append(part)
    return b"".join(parts)


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than {limit} bytes")


def understood(raw: bytes, schema: type[Schema]) -> Schema:
    """Return a body as a value of `schema`. Raises: BadRequest naming the field."""
    data = _parsed(raw)
    if not isinstance(data, dict):
        raise BadRequest("the body must be a JSON object")
    try:
        value: Schema = schema.model_validate(data)
    except ValidationError as error:
        raise bad_fields(error.errors(include_url=False, include_context=False), data) from None
    return value


def _parsed(raw: bytes) -> Any:
    if _has_too_many(raw):
        raise BadRequest(f"the body has more than {_MOST_VALUES} values")
    try:
        return parse(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadRequest(f"the body is not valid UTF-8, at byte {error.start}") from None
    except NotAlike as error:
        raise BadRequest(f"the body {error}") from None


def _has_too_many(raw: bytes) -> bool:
    """Whether there are too many values to be parsed: commas count, as far as they are in no text."""
    if raw.count(b",") < _MOST_VALUES:
        return False
    bare = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    commas = texts = end = 0
    # Where there are more texts than commas allow it is no JSON, and whoever parses it finds that at once.
    while commas < _MOST_VALUES and texts <= 2 * (commas + DEEPEST):
        start = bare.find(b'"', end)
        if start < 0:
            return commas + bare.count(b",", end) >= _MOST_VALUES
        commas += bare.count(b",", end, start)
        end = bare.find(b'"', start + 1) + 1
        texts += 1
        if end == 0:
            return False
    return commas >= _MOST_VALUES
