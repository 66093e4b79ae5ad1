"""Complete answers: JSON, and errors in the shape that the asked address speaks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from mlxk2.errors import MlxkError
from mlxk2.server.errors import NotJson, anthropic_error, openai_error, retry_headers

# After these the body of the request was not read to its end.
_UNREAD = (401, 403, 408, 413, 415, 429)


class JsonResponse(Response):
    """An answer of JSON, with letters as they are."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Spell the content."""
        return to_json(content).encode("utf-8")


def to_json(value: Any) -> str:
    """Spell a value in one line; what models wrote may hold halves of characters, which become U+FFFD."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def speaks_anthropic(path: str) -> bool:
    """Whether the address belongs to Anthropic's API."""
    return path == "/v1/messages" or path.startswith("/v1/messages/")


def error_body(path: str, error: MlxkError, names: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the body that says so, in the shape of the address."""
    return anthropic_error(error, names) if speaks_anthropic(path) else openai_error(error, names)


def error_response(path: str, error: MlxkError, names: Mapping[str, str] | None = None) -> Response:
    """Return the answer that says so."""
    status, headers = error.http_status, retry_headers(error)
    if status in _UNREAD:
        headers["connection"] = "close"
    if isinstance(error, NotJson):
        headers["accept-encoding"] = "identity"
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    return JsonResponse(error_body(path, error, names), status_code=status, headers=headers)
