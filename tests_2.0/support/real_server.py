"""`mlxk2 serve` as a process with the real engine behind it, ended as people end it; nothing may stay of it.

with real_server(folder) as server:
    server.chat(max_tokens=4)
"""

from __future__ import annotations

import glob
import importlib.util
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.processes import gone, wait_until
from support.serving import CLI, RunningServer, running

httpx = pytest.importorskip("httpx")

CAN_SERVE = sys.version_info >= (3, 11) and all(map(importlib.util.find_spec, ("fastapi", "uvicorn")))
# What every test with such a server is marked with.
MARKS = [
    pytest.mark.mlx_real,
    pytest.mark.skipif(not CAN_SERVE, reason="the extra `serve` is not installed, or Python is older than 3.11"),
]
HI: list[dict[str, Any]] = [{"role": "user", "content": "hi"}]
_BLAS = ("/usr/lib/*/openblas-pthread/libopenblas.so.0", "/usr/lib/*/libopenblas.so.0", "/usr/lib64/libopenblas.so.0")
_SAMPLE = re.compile(r"^(\w+(?:\{[^}]*\})?) (\S+)$", re.MULTILINE)


class RealServer:
    """A server that answers. `model` is the first one's name; `client` speaks to it."""

    def __init__(self, server: RunningServer, model: str, key: str | None = None) -> None:
        self.server, self.model = server, model
        self.url = str(server.banner["data"]["url"])
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self.client = httpx.Client(base_url=self.url, timeout=180, headers=headers)
        self.engines: set[int] = set()

    @property
    def pid(self) -> int:
        return self.server.process.pid

    @property
    def log(self) -> str:
        return self.server.err.read_text(encoding="utf-8")

    def engine(self) -> int:
        """Return the process id of the engine, once it is ready."""
        wait_until(lambda: self._ready() is not None, "the model is loaded")
        pid = self._ready()
        assert pid is not None
        self.engines.add(pid)
        return pid

    def _ready(self) -> int | None:
        loaded = self.status()["loaded"]
        return int(loaded[0]["pid"]) if loaded and loaded[0]["state"] == "ready" else None

    def fresh_engine(self) -> int:
        """Have the model loaded anew, by a process that has served nobody; return its id."""
        self.client.post(f"/v1/models/{self.model}/unload")
        assert self.client.post(f"/v1/models/{self.model}/load").status_code == 200
        return self.engine()

    def status(self) -> dict[str, Any]:
        told: dict[str, Any] = self.client.get("/v1/status").json()
        return told

    def metric(self, name: str) -> float:
        """Return a sample of /metrics, its labels included in `name`."""
        return float(dict(_SAMPLE.findall(self.client.get("/metrics").text))[name])

    def post(self, path: str, **body: Any) -> Any:
        return self.client.post(path, json={"model": self.model, **body})

    def chat(self, **body: Any) -> Any:
        return self.post("/v1/chat/completions", **{"messages": HI, **body})

    def complete(self, **body: Any) -> Any:
        return self.post("/v1/completions", **{"prompt": "hi", **body})

    def wait_until_idle(self) -> None:
        """Return once nothing is asked any more, by the server's count, and nothing computed by the engine's."""
        wait_until(lambda: self.status()["running"] + self.status()["waiting"] == 0, "no request is there")
        wait_until(lambda: self.metric("mlxk2_batch_size") == 0, "the engine has nothing to do")


@contextmanager
def real_server(
    *models: Path, words: tuple[str, ...] = (), env: dict[str, str] | None = None, key: str | None = None
) -> Iterator[RealServer]:
    """Serve `models` and nothing else, the first one loaded; end the server with SIGTERM.

    `key` is what our own client is let in with, where the server demands one.
    """
    names = [str(model) for model in models]
    command = ("--json", "--port", "0", *(("--model", names[0], "--models", ",".join(names)) if names else ()), *words)
    with running(CLI, *command, env={**fast_blas(), **(env or {})}) as started:
        server = RealServer(started, names[0] if names else "", key)
        try:
            if names:
                server.engine()
            yield server
            server.engines |= {int(one["pid"]) for one in server.status()["loaded"] if one["pid"]}
        finally:
            server.client.close()
            started.process.terminate()
            code = started.process.wait(20)
        assert code == 0, server.log
        assert "Traceback" not in server.log, server.log
    for pid in server.engines:
        wait_until(lambda pid=pid: gone(pid), f"the engine {pid} has ended")  # type: ignore[misc]


def fast_blas() -> dict[str, str]:
    """Return the environment that makes float32 fast on Linux, where a good BLAS is installed."""
    found = [path for pattern in _BLAS for path in glob.glob(pattern)] if sys.platform == "linux" else []
    return {"LD_PRELOAD": found[0], "OPENBLAS_NUM_THREADS": "1"} if found else {}


def said(answer: Any) -> str:
    """Return the text of a chat completion, or of a completion."""
    assert answer.status_code == 200, answer.text
    choice = answer.json()["choices"][0]
    text: str = choice["message"]["content"] if "message" in choice else choice["text"]
    return text


def refusal(answer: Any) -> dict[str, Any]:
    """Return the error of an answer that has one in OpenAI's shape, and is a client's fault."""
    assert 400 <= answer.status_code < 500, (answer.status_code, answer.text)
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error
