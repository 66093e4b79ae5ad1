"""One HTTP request as it is: follows nothing, mends nothing, retries nothing. Knows nothing of the Hub."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Answer:
    """What came back. Header names are lower case; `short`: less body than the length that was told."""

    status: int
    headers: dict[str, str]
    body: bytes
    short: bool

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    url: str, method: str = "GET", headers: Mapping[str, str] | None = None, body: Any = b"", timeout: float = 20
) -> Answer:
    """Send one request on a connection of its own. A body without a length goes out in chunks."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
    try:
        connection.request(method, f"{parts.path}?{parts.query}", body or None, dict(headers or {}))
        response = connection.getresponse()
        try:
            got, short = response.read(), False
        except http.client.IncompleteRead as error:
            got, short = error.partial, True
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, got, short)
    finally:
        connection.close()
