"""Connections for file content: pooled, with proxies and time-outs; who is given the token, and whither a redirect may lead.

Knows bytes and statuses, neither files nor the cache.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

import urllib3

from mlxk2 import __version__
from mlxk2.settings import HubSettings

_MOST_REDIRECTS = 5
_SHORT_BYTES = 64 * 1024
_REDIRECTS = (301, 302, 303, 307, 308)


class BadRedirect(Exception):
    """The server sends us to where we do not go, or cannot."""


class Answer(NamedTuple):
    """An answer whose body has not been read. `url` is where it came from in the end; `from_hub` whether that is the Hub itself."""

    response: Any
    url: str
    from_hub: bool

    @property
    def status(self) -> int:
        return int(self.response.status)

    @property
    def headers(self) -> Mapping[str, str]:
        return self.response.headers  # type: ignore[no-any-return]


class Transport:
    """GET requests to the Hub and to the storage that it points to. Safe for several threads."""

    def __init__(self, hub: HubSettings, token: str | None, connections: int) -> None:
        self._hub = hub
        self._token = token
        self._connections = connections
        self._pools: dict[str | None, Any] = {}
        self._open: set[Any] = set()
        self._lock = threading.Lock()
        self._ended = False
        self._home = _origin(hub.endpoint)

    def get(self, url: str, start: int | None = None, end: int | None = None) -> Answer:
        """Ask for `url`, bytes from `start` up to and without `end`; redirects are followed.

        Raises: urllib3.exceptions.HTTPError, BadRedirect.
        """
        for _ in range(_MOST_REDIRECTS + 1):
            answer = self._request("GET", url, start, end)
            place = answer.headers.get("Location")
            if answer.status not in _REDIRECTS or place is None:
                return answer
            self.done(answer)
            url = _checked_redirect(url, place)
        raise BadRedirect("too many redirects")

    def look(self, url: str) -> Answer:
        """Ask for the headers of `url`; a redirect is an answer. The caller ends it with `done`.

        Raises: urllib3.exceptions.HTTPError, BadRedirect.
        """
        return self._request("HEAD", url, None, None)

    def read(self, answer: Answer, count: int) -> bytes:
        """Read at most `count` bytes of a body. Raises: urllib3.exceptions.HTTPError, also once `abort` was called.

        What a TLS connection gives after it was shut down is no content.
        """
        try:
            data: bytes = answer.response.read(count)
        except ValueError as closed:
            raise urllib3.exceptions.ProtocolError("the connection was closed") from closed
        if self._ended:
            raise urllib3.exceptions.ProtocolError("the download was ended")
        return data

    def done(self, answer: Answer) -> None:
        """Give the connection back where little of the answer was left, else close it."""
        response = answer.response
        try:
            with suppress(urllib3.exceptions.HTTPError, OSError, ValueError):
                is_short = response.status not in (200, 206) and len(response.read(_SHORT_BYTES)) < _SHORT_BYTES
                if not is_short:
                    response.close()
        finally:
            with self._lock:
                self._open.discard(response)
            response.release_conn()

    def finished(self, answer: Answer) -> None:
        """Give the connection back after the body was read to its end."""
        with self._lock:
            self._open.discard(answer.response)
        answer.response.release_conn()

    def abort(self) -> None:
        """End every read that is going on, in whatever thread, and open nothing any more."""
        with self._lock:
            self._ended = True
            waiting = list(self._open)
        for response in waiting:
            with suppress(OSError, ValueError, AttributeError, RuntimeError, urllib3.exceptions.HTTPError):
                response.shutdown()

    def close(self) -> None:
        """Close all connections, and open none any more."""
        self.abort()
        with self._lock:
            pools = list(self._pools.values())
        for pool in pools:
            pool.clear()

    def _request(self, method: str, url: str, start: int | None, end: int | None) -> Answer:
        from_hub = _origin(url) == self._home
        headers = {"Accept-Encoding": "identity", "User-Agent": f"mlxk2/{__version__}"}
        if from_hub and self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        if start is not None:
            headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
        try:
            response = self._pool(url).request(
                method,
                url,
                headers=headers,
                preload_content=False,
                redirect=False,
                retries=False,
                timeout=self._time_out(),
            )
        except ValueError as broken:
            raise BadRedirect("an address that cannot be used") from broken
        answer = Answer(response, url, from_hub)
        with self._lock:
            self._open.add(response)
            ended = self._ended
        if ended:
            self.done(answer)
            raise urllib3.exceptions.ProtocolError("the download was ended")
        return answer

    def _time_out(self) -> Any:
        return urllib3.Timeout(connect=self._hub.answer_timeout_s, read=self._hub.download_timeout_s)

    def _pool(self, url: str) -> Any:
        proxy = _proxy_for(url, self._hub.proxies)
        with self._lock:
            if proxy not in self._pools:
                self._pools[proxy] = self._new_pool(proxy)
            return self._pools[proxy]

    def _new_pool(self, proxy: str | None) -> Any:
        options: dict[str, Any] = {"num_pools": 8, "maxsize": self._connections, "block": False}
        if self._home[0] == "https":
            options["ssl_context"] = _tls()
        if proxy is None:
            return urllib3.PoolManager(**options)
        parts = urlsplit(proxy)
        headers = None
        if parts.username:
            from urllib.parse import unquote

            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers = urllib3.make_headers(proxy_basic_auth=login)
        return urllib3.ProxyManager(proxy, proxy_headers=headers, **options)


def _origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port as urllib3 will understand them: two parsers may see two hosts in one address.

    Raises: ValueError.
    """
    parts = urllib3.util.parse_url(url)
    scheme = (parts.scheme or "").lower()
    return scheme, (parts.host or "").lower(), parts.port or {"http": 80, "https": 443}.get(scheme)


def _checked_redirect(url: str, place: str) -> str:
    try:
        target = urljoin(url, place)
        scheme, host, _ = _origin(target)
        has_login = urllib3.util.parse_url(target).auth is not None
    except ValueError as broken:
        raise BadRedirect("a redirect to no address") from broken
    if scheme not in ("http", "https") or not host or has_login or "\\" in target or not target.isprintable():
        raise BadRedirect("a redirect to no address")
    if scheme == "http" and _origin(url)[0] == "https":
        raise BadRedirect("a redirect from https to http")
    return target


def _proxy_for(url: str, proxies: Mapping[str, str]) -> str | None:
    from urllib import request

    parts = urlsplit(url)
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    bypasses = request.proxy_bypass_environment  # type: ignore[attr-defined]
    if proxy is None or bypasses(parts.netloc.rpartition("@")[2], dict(proxies)):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _tls() -> Any:
    """Trust what OpenSSL finds, SSL_CERT_FILE first; where it finds nothing, the system's store, or certifi's list.

    truststore comes last because it makes one connection at a time.
    """
    import ssl

    paths = ssl.get_default_verify_paths()
    if paths.cafile or paths.capath:
        return ssl.create_default_context()
    try:
        import truststore

        return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    except ImportError:
        pass
    try:
        import certifi

        return ssl.create_default_context(cafile=certifi.where())
    except ImportError:
        return ssl.create_default_context()
