"""Who is let in: the Host header, the page that asks, the API key. Plain ASGI, in front of every route."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from mlxk2.errors import MlxkError
from mlxk2.server.answers import error_response
from mlxk2.server.errors import Forbidden, Unauthorized
from mlxk2.server.settings import LOOPBACK_NAMES, ServerSettings

# What anybody may see: whether the server is well, how to use it, and the page that asks for the key.
OPEN_PATHS = frozenset({"/", "/health", "/docs", "/openapi.json", "/favicon.ico"})
_UNSAFE = ("POST", "PUT", "PATCH", "DELETE")


class Gate:
    """Answers those who may not come in, and lets the others through."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self._app = app
        self._hosts = _host_names(settings)
        self._origins = frozenset(origin.rstrip("/").lower() for origin in settings.cors_origins)
        self._keys = tuple(_digest(key) for key in settings.api_keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "http":
            try:
                self._check(scope)
            except MlxkError as error:
                await error_response(scope["path"], error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        self._check_host(headers)
        if scope["method"] in _UNSAFE:
            self._check_origin(headers)
        if self._keys and scope["path"] not in OPEN_PATHS:
            self._check_key(headers)

    def _check_host(self, headers: Headers) -> None:
        """A page of another site can have its name lead here; the Host header tells on it."""
        if self._hosts is None:
            return
        names = headers.getlist("host")
        if len(names) != 1 or host_name(names[0]) not in self._hosts:
            raise Forbidden("the Host header names another host; serve's flag --allowed-host NAME lets a name in")

    def _check_origin(self, headers: Headers) -> None:
        origin = headers.get("origin")
        if origin is None or "*" in self._origins or origin.lower() in self._origins:
            return
        if _netloc(origin) != headers.get("host", "").lower():
            raise Forbidden("pages of other sites may not ask; serve's flag --cors-origin ORIGIN lets a site in")

    def _check_key(self, headers: Headers) -> None:
        given = _digest(_given_key(headers))
        # Every key is compared, so that the time tells nothing.
        matches = [hmac.compare_digest(given, key) for key in self._keys]
        if not any(matches):
            raise Unauthorized(
                "the API key is missing or wrong", hint="send Authorization: Bearer KEY, or x-api-key: KEY"
            )


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def host_name(header: str) -> str:
    """Return the name in a Host header, without port and brackets."""
    header = header.strip().lower()
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].rstrip(".")


def _host_names(settings: ServerSettings) -> frozenset[str] | None:
    """Return the names that are ours; None: every name."""
    if settings.is_loopback:
        return frozenset(_lowered((*LOOPBACK_NAMES, settings.host, *settings.allowed_hosts)))
    return frozenset(_lowered((settings.host, *settings.allowed_hosts))) if settings.allowed_hosts else None


def _lowered(names: Iterable[str]) -> Iterable[str]:
    return (name.lower() for name in names)


def _given_key(headers: Headers) -> str:
    scheme, _, key = str(headers.get("authorization", "")).partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    return str(headers.get("x-api-key", ""))


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
