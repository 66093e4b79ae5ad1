"""What a route is given and what it answers: calls, refusals, JSON, files with ranges. Knows no sockets."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import parse_qs

from .request_log import Request
from .wire import FilePart, Response

if TYPE_CHECKING:
    from .access import User
    from .server import HubServer

_RANGE = re.compile(r"bytes=(\d*)-(\d*)$")
JSON_AT_MOST = 256 * 1024 * 1024


@dataclass
class Call:
    """A request that found its route. `names`: what the route's pattern caught, percent-decoded."""

    hub: HubServer
    request: Request
    headers: Mapping[str, str]
    body: BinaryIO
    names: Mapping[str, str]
    user: User | None = None

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(self.request.query, keep_blank_values=True)

    def json(self) -> dict[str, Any]:
        """Parse the body. Raises: Refusal."""
        try:
            value = json.loads(self.body.read(JSON_AT_MOST) or b"{}")
        except ValueError as error:
            raise Refusal(400, "Invalid JSON") from error
        if not isinstance(value, dict):
            raise Refusal(400, "Invalid JSON: an object is expected")
        return value


@dataclass
class Refusal(Exception):
    """An answer that is no success."""

    status: int
    message: str
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    def response(self) -> Response:
        headers = {"X-Error-Message": " ".join(self.message.split()), **self.headers}
        if self.code is not None:
            headers["X-Error-Code"] = self.code
        return json_answer({"error": self.message, **self.extra}, self.status, headers)


def json_answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with JSON."""
    body = json.dumps(value).encode()
    return Response(status, {"Content-Type": "application/json; charset=utf-8", **(headers or {})}, (body,))


def file_answer(call: Call, path: Path, size: int, headers: dict[str, str]) -> Response:
    """Answer with a file or the range that is asked for, with whatever damage is on order."""
    request, faults = call.request, call.hub.faults
    told = size
    shorter = faults.take(request, "length")
    if shorter is not None:
        told = max(0, size - shorter.by)
    headers = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream", **headers}
    span = _span(call, told, headers.get("ETag"))
    start, end = (0, told) if span is None else span
    status = 200
    if span is not None:
        status = 206
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{told}"
    there = max(0, min(end, size) - start)
    body: tuple[Any, ...] = (FilePart(path, start, there),)
    flip = faults.take(request, "flip", when=lambda fault: start <= fault.after < start + there)
    if flip is not None:
        body = _flipped(path, start, start + there, flip.after)
    return Response(status, headers, body, declared=end - start)


def _span(call: Call, size: int, etag: str | None) -> tuple[int, int] | None:
    """Read the Range header: the first byte and the one after the last, or None for all. Raises: Refusal."""
    match = _RANGE.match(call.headers.get("range", ""))
    if match is None or not (match[1] or match[2]) or call.headers.get("if-range", etag) != etag:
        return None
    if call.hub.faults.take(call.request, "no_range"):
        return None
    if match[1]:
        start = int(match[1])
        end = min(size, int(match[2]) + 1) if match[2] else size
    else:
        start, end = max(0, size - int(match[2])), size
    if start >= end:
        raise Refusal(416, "The requested range is not satisfiable", headers={"Content-Range": f"bytes */{size}"})
    return start, end


def _flipped(path: Path, start: int, end: int, at: int) -> tuple[Any, ...]:
    with path.open("rb") as file:
        file.seek(at)
        wrong = bytes([file.read(1)[0] ^ 0xFF])
    return FilePart(path, start, at - start), wrong, FilePart(path, at + 1, end - at - 1)
