"""Servers to be measured, and a client so lean that it is not what is measured: plain sockets, one loop, no parsing on the way."""

from __future__ import annotations

import http.client
import json
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from harness import child_environ

BIN = Path(sys.executable).parent
CHAT = "/v1/chat/completions"
PATIENCE_S = 120.0
_DONE = b"data: [DONE]"


class Server(NamedTuple):
    """A server that answers."""

    name: str
    port: int
    pid: int
    model: str


class Reply(NamedTuple):
    """An answer as it came. Units: seconds from the moment it was asked."""

    status: int
    first_s: float
    seconds: float
    raw: bytes

    @property
    def usage(self) -> dict[str, Any]:
        """The counts at the end of a stream, or of a whole answer."""
        end = self.raw.rindex(b'"usage":')
        found: dict[str, Any] = json.JSONDecoder().raw_decode(self.raw[end + 8 :].decode().lstrip())[0]
        return found


@contextmanager
def ours(model: Path, *words: str) -> Iterator[Server]:
    """Serve `model` with mlxk2."""
    command = [str(BIN / "mlxk2"), "serve", "--model", str(model), "--port", "0", "--json", *words]
    with _running("mlxk2 serve", command, None) as server:
        yield server


@contextmanager
def stock(model: Path) -> Iterator[Server]:
    """Serve `model` with mlx-lm's own server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(BIN / "mlx_lm.server"), "--model", str(model), "--port", str(port), "--log-level", "ERROR"]
    with _running("mlx_lm.server", command, port) as server:
        yield server


@contextmanager
def _running(name: str, command: list[str], port: int | None) -> Iterator[Server]:
    with tempfile.TemporaryFile("w+") as out:
        child = subprocess.Popen(command, env=child_environ(), stdout=out, stderr=subprocess.DEVNULL)
        try:
            end = time.monotonic() + PATIENCE_S
            while time.monotonic() < end:
                if child.poll() is not None:
                    raise SystemExit(f"{name} ended with {child.returncode}")
                out.seek(0)
                text = out.read()
                if port is None and text.endswith("}\n"):
                    port = int(json.loads(text)["data"]["port"])
                if port is not None and _answers(port):
                    break
                time.sleep(0.05)
            assert port is not None
            yield Server(name, port, child.pid, command[command.index("--model") + 1])
        finally:
            child.terminate()
            child.wait()


def _answers(port: int) -> bool:
    try:
        return request(port, chat("hello", 1, stream=False)).status == 200
    except OSError:
        return False


def chat(text: str, tokens: int, **more: Any) -> dict[str, Any]:
    """Return a greedy request to stream; both servers understand it."""
    asked = {"messages": [{"role": "user", "content": text}], "max_tokens": tokens, "temperature": 0, "stream": True}
    if more.get("stream", True):
        asked["stream_options"] = {"include_usage": True}
    return {**asked, **more}


def get(port: int, path: str) -> bytes:
    """Return what is at `path`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()


def request(port: int, body: dict[str, Any], path: str = CHAT) -> Reply:
    """Return the answer to one request."""
    return together(port, [body], path)[0]


def together(port: int, bodies: Sequence[dict[str, Any]], path: str = CHAT) -> list[Reply]:
    """Return the answers to requests that are sent at the same time."""
    with selectors.DefaultSelector() as selector:
        calls = [Call(port, body, path) for body in bodies]
        for call in calls:
            selector.register(call.socket, selectors.EVENT_READ, call)
        left = len(calls)
        while left:
            ready = selector.select(PATIENCE_S)
            if not ready:
                raise SystemExit(f"no answer within {PATIENCE_S:g} s")
            for key, _ in ready:
                if key.data.read():
                    selector.unregister(key.fileobj)
                    left -= 1
    return [call.reply() for call in calls]


class Call:
    """One request on its way, on a connection of its own."""

    def __init__(self, port: int, body: dict[str, Any], path: str = CHAT) -> None:
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        self._start = time.perf_counter()
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
        self.socket.sendall(f"{head}Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data)
        self._parts: list[bytes] = []
        self._first = self._last = 0.0

    def read(self) -> bool:
        """Take what has come; return whether that was all."""
        part = self.socket.recv(65536)
        self._last = time.perf_counter() - self._start
        if b"data: {" in part and not self._first:
            self._first = self._last
        self._parts.append(part)
        if part and _DONE not in part:
            return False
        self.socket.close()
        return True

    def begin(self) -> None:
        """Return when the answer has begun."""
        while not self._first:
            if self.read():
                raise SystemExit("the answer ended before it had begun")

    def reply(self) -> Reply:
        """Return the whole."""
        raw = b"".join(self._parts)
        status = int(raw[9:12]) if raw[9:12].isdigit() else 0
        return Reply(status, self._first or self._last, self._last, raw)
