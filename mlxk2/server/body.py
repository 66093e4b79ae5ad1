"""The body of a request: bounded, UTF-8, JSON that every reader understands alike, and then the fields of a schema."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Callable, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request

from mlxk2.runner.json_answer import finite, no_constant
from mlxk2.server.errors import BadRequest, BodyTooLarge, BodyTooSlow, ClientGone, NotJson, bad_fields
from mlxk2.server.settings import ServerSettings

Schema = TypeVar("Schema", bound=BaseModel)

_DEEPEST = 64
_CHARSETS = ("utf-8", "utf8", "us-ascii")

# Larger bodies are parsed in a thread, so that others need not wait.
_LARGE_BYTES = 256 * 1024


async def read_body(
    request: Request, schema: type[Schema], settings: ServerSettings, take: Callable[[int], None]
) -> Schema:
    """Return the request's body as a value of `schema`; `take` is told the size of each part, and may raise.

    Raises: NotJson, BodyTooLarge, BodyTooSlow, BadRequest naming the field, ClientGone.
    """
    _check_kind(request.headers)
    try:
        raw = await asyncio.wait_for(_read(request, settings.max_body_bytes, take), settings.body_timeout_s)
    except asyncio.TimeoutError as error:
        raise BodyTooSlow(f"the body did not arrive within {settings.body_timeout_s:g} s") from error
    except ClientDisconnect as error:
        raise ClientGone("the client went away") from error
    if len(raw) > _LARGE_BYTES:
        return await asyncio.to_thread(_understood, raw, schema)
    return _understood(raw, schema)


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


def _understood(raw: bytes, schema: type[Schema]) -> Schema:
    data = parse_json(raw)
    if not isinstance(data, dict):
        raise BadRequest("the body must be a JSON object")
    try:
        value: Schema = schema.model_validate(data)
    except ValidationError as error:
        raise bad_fields(error.errors(include_url=False, include_context=False), data) from None
    return value


def parse_json(raw: bytes) -> Any:
    """Return the value. Raises: BadRequest where it is no JSON, or none that every reader understands alike."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest(f"the body is not valid UTF-8, at byte {error.start}") from None
    try:
        data = json.loads(text, parse_constant=no_constant, parse_float=finite, object_pairs_hook=_without_twins)
        _check_depth(data)
        if "\\" in text:
            # Escapes can write half of a character that needs two.
            json.dumps(data, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise BadRequest(f"the body is nested more than {_DEEPEST} levels deep") from None
    except UnicodeEncodeError:
        raise BadRequest("the body has escapes that are no characters (lone surrogates)") from None
    except ValueError as error:
        raise BadRequest(f"the body is no JSON: {str(error)[:200]}") from None
    return data


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Which of two values counts is up to the reader; so none does."""
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        twin = next(name for name in made if names.count(name) > 1)
        raise BadRequest(f"the body has an object with two values for {twin[:80]!r}")
    return made


def _check_depth(data: Any) -> None:
    level = [data]
    for _ in range(_DEEPEST):
        level = [part for value in level for part in _parts(value)]
        if not level:
            return
    raise RecursionError


def _parts(value: Any) -> list[Any]:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [child for child in children if isinstance(child, (dict, list))]
