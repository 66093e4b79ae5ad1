"""From a request on the wire to its route and back, with faults and counters on the way. Knows no protocol details."""

from __future__ import annotations

import io
import re
import secrets
import sys
import time
from typing import TYPE_CHECKING, BinaryIO, Callable
from urllib.parse import parse_qs, unquote

from .answers import Call, Refusal
from .faults import Fault
from .repo import RevisionMissing
from .request_log import Request
from .routes_read import CACHE, READING
from .routes_write import WRITING
from .transfer import ClientGone, Pace
from .wire import Delivery, Exchange, Response

if TYPE_CHECKING:
    from .server import HubServer

Route = Callable[[Call], Response]
ROUTES = tuple(
    (methods.split(), re.compile(pattern + "$"), kind, route) for methods, pattern, kind, route in (*WRITING, *READING)
)


class Dispatch:
    """Answers what comes in on either port."""

    def __init__(self, hub: HubServer) -> None:
        self._hub = hub

    def serve_api(self, exchange: Exchange) -> None:
        request = _request(exchange)
        for methods, pattern, kind, route in ROUTES:
            match = pattern.match(request.path) if request.method in methods else None
            if match is not None:
                names = {name: unquote(value) for name, value in match.groupdict().items() if value is not None}
                request.kind, request.repo, request.file = kind, names.get("repo"), names.get("file")
                request.carries_file = kind == "resolve" and self._is_given_here(request.path, names)
                self._serve(exchange, request, _identified(route), names)
                return
        request.kind = "other"
        self._serve(exchange, request, _nothing_here, {})

    def serve_storage(self, exchange: Exchange) -> None:
        request = _request(exchange)
        signature = self._hub.storage.signature(parse_qs(request.query))
        request.kind = "upload" if request.method == "PUT" else "storage"
        request.carries_file = request.kind == "storage"
        if signature is not None:
            request.repo, request.file = signature.repo.id, signature.file
        self._serve(exchange, request, lambda call: self._hub.storage.answer(call, signature), {})

    def _is_given_here(self, path: str, names: dict[str, str]) -> bool:
        """Tell whether a file's content is the answer, and not a redirect to it."""
        if self._hub.resolve_cache and not path.startswith(CACHE):
            return False
        repo = self._hub.find(names["repo"])
        try:
            entry = repo.files(names["rev"]).get(names["file"]) if repo is not None else None
        except RevisionMissing:
            return False
        return entry is not None and not entry.lfs

    def _serve(self, exchange: Exchange, request: Request, route: Route, names: dict[str, str]) -> None:
        self._hub.log.add(request)
        try:
            self._carry_out(exchange, request, route, names)
        finally:
            if self._hub.verbose:
                _report(request)

    def _carry_out(self, exchange: Exchange, request: Request, route: Route, names: dict[str, str]) -> None:
        faults = self._hub.faults
        if faults.take(request, "hang", when=lambda fault: not fault.headers):
            exchange.connection.end("hang")
            return
        body = self._incoming(exchange, request)
        response = self._respond(Call(self._hub, request, exchange.headers, body, names), route)
        if faults.take(request, "vanish"):
            exchange.connection.end("drop")
            return
        request.status = response.status
        response.headers.setdefault("X-Request-Id", secrets.token_hex(8))
        counted = request.carries_file and response.status in (200, 206)

        def sent(count: int) -> None:
            request.bytes_sent += count if counted else 0

        exchange.send(response, self._delivery(request, response), sent)

    def _respond(self, call: Call, route: Route) -> Response:
        fault = self._hub.faults.take(call.request, "status", "invalid_rev", "body")
        try:
            if fault is None:
                return route(call)
            if fault.kind == "body":
                return Response(fault.status or 200, {"Content-Type": fault.content_type}, (fault.body,))
            raise _refusal(fault)
        except Refusal as refusal:
            return refusal.response()

    def _delivery(self, request: Request, response: Response) -> Delivery:
        """Say how the answer goes out."""
        faults = self._hub.faults
        slow = None if request.kind == "upload" else faults.take(request, "slow")
        rate = slow.rate if slow is not None else self._storage_rate(request)
        length = 0 if request.method == "HEAD" or request.kind == "upload" else response.length
        ends = faults.take(request, "drop", "reset", "hang", when=lambda fault: fault.headers and fault.after < length)
        return Delivery(rate=rate) if ends is None else Delivery(ends.after, ends.kind, rate)

    def _incoming(self, exchange: Exchange, request: Request) -> BinaryIO:
        """Give the body of the request; that of an upload is counted, and may be slow or end early."""
        if request.kind != "upload":
            return exchange.body
        faults, length = self._hub.faults, int(exchange.headers.get("content-length", sys.maxsize))
        slow = faults.take(request, "slow")
        rate = slow.rate if slow is not None else self._storage_rate(request)
        ends = faults.take(request, "drop", "reset", "hang", when=lambda fault: fault.headers and fault.after < length)
        return io.BufferedReader(_Upload(exchange, request, Pace(rate, exchange.connection.stopping), ends))

    def _storage_rate(self, request: Request) -> int | None:
        return self._hub.storage_rate if request.kind in ("storage", "upload") else None


class _Upload(io.RawIOBase):
    """An upload's body as it comes in."""

    def __init__(self, exchange: Exchange, request: Request, pace: Pace, ends: Fault | None) -> None:
        self._exchange, self._request, self._pace, self._ends = exchange, request, pace, ends

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        wanted = min(len(buffer), self._pace.chunk)
        if self._ends is not None:
            wanted = min(wanted, self._ends.after - self._request.bytes_received)
            if wanted == 0:
                self._exchange.connection.end(self._ends.kind)
                raise ClientGone("as ordered")
        data = self._exchange.body.read1(wanted)
        buffer[: len(data)] = data
        self._request.bytes_received += len(data)
        self._pace.wait(len(data))
        self._pace.done += len(data)
        return len(data)


def _request(exchange: Exchange) -> Request:
    headers = exchange.headers
    return Request(
        method=exchange.method,
        path=exchange.path,
        query=exchange.query,
        port=exchange.connection.port,
        range=headers.get("range"),
        range_if=headers.get("if-range"),
        authorized="authorization" in headers,
        user_agent=headers.get("user-agent", ""),
    )


def _identified(route: Route) -> Route:
    """Look at the token before the route is taken."""

    def with_user(call: Call) -> Response:
        call.user = call.hub.access.user(call.headers)
        call.request.user = call.user.name if call.user is not None else None
        return route(call)

    return with_user


def _nothing_here(_call: Call) -> Response:
    raise Refusal(404, "Sorry, we can't find the page you are looking for.")


def _refusal(fault: Fault) -> Refusal:
    headers = dict(fault.headers_extra)
    if fault.retry_after is not None:
        headers["Retry-After"] = str(fault.retry_after)
    if fault.kind == "invalid_rev":
        return Refusal(404, fault.message or "Invalid rev id: main", "RevisionNotFound", headers)
    return Refusal(fault.status or 503, fault.message or "ordered by a test", fault.code, headers)


def _report(request: Request) -> None:
    count = request.bytes_sent or request.bytes_received
    words = [time.strftime("%H:%M:%S"), request.method, request.path, request.range or "", "->", str(request.status)]
    words += [f"{count} bytes" if count else "", f"by {request.user}" if request.user else ""]
    sys.stderr.write(" ".join(word for word in words if word) + "\n")
