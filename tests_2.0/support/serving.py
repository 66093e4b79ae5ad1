"""A server in a process of its own: started through the front door, or with the fake engine behind it.

Run as a program: MODEL_FOLDER [SETTINGS] — what `mlxk2 serve --json` does, with the fake engine; SETTINGS are those of
the web side and of the host as JSON: {"web": {...}, "host": {...}}.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

from support.processes import gone, wait_until

HERE = Path(__file__).resolve().parent.parent
CLI = (sys.executable, "-m", "mlxk2", "serve")
FAKE = (sys.executable, "-m", "support.serving")


class RunningServer:
    """A started server. `out` and `err` are files that hold what it printed so far."""

    def __init__(self, process: subprocess.Popen[str], out: Path, err: Path) -> None:
        self.process, self.out, self.err = process, out, err

    @property
    def banner(self) -> dict[str, Any]:
        """The envelope that it printed, once it is whole."""
        answer: dict[str, Any] = json.loads(self.out.read_text(encoding="utf-8"))
        return answer

    @property
    def port(self) -> int:
        return int(self.banner["data"]["port"])

    def wait_for_banner(self) -> None:
        wait_until(
            lambda: self.process.poll() is not None or self.out.read_text().endswith("}\n"), "the banner is there"
        )
        assert self.process.poll() is None, self.err.read_text()

    def wait_for_engine(self) -> int:
        """Return the engine's process id, once the model is loaded."""

        def loaded() -> dict[str, Any] | None:
            found = self.get("/v1/status")["loaded"]
            return found[0] if found and found[0]["state"] == "ready" else None

        wait_until(lambda: loaded() is not None, "the model is loaded")
        found = loaded()
        assert found is not None
        return int(found["pid"])

    def get(self, path: str) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def stream(self, model: str) -> tuple[http.client.HTTPConnection, IO[bytes]]:
        """Ask for an answer in pieces; the first has come."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        body = json.dumps({"model": model, "stream": True, "messages": [{"role": "user", "content": "hi"}]})
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        line = answer.readline()
        assert re.match(rb"data: \{", line), line
        return connection, answer


@contextmanager
def running(
    command: tuple[str, ...], *words: str, env: Mapping[str, str] | None = None, wait: bool = True
) -> Iterator[RunningServer]:
    """Start a server, wait for its banner, and see that nothing is left of it in the end."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        path = os.pathsep.join(filter(None, [str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH")]))
        with out.open("w") as out_file, err.open("w") as err_file:
            process = subprocess.Popen(
                [*command, *words],
                stdin=subprocess.DEVNULL,
                stdout=out_file,
                stderr=err_file,
                text=True,
                env={**os.environ, **(env or {}), "PYTHONPATH": path},
            )
        server = RunningServer(process, out, err)
        try:
            if wait:
                server.wait_for_banner()
            yield server
        finally:
            process.kill()
            process.wait()
        assert gone(process.pid)


def _serve_slowly(folder: str, settings: str = "{}") -> int:
    from mlxk2.cli.entry import process_io
    from mlxk2.envelope import success, to_json
    from mlxk2.operations import serve
    from mlxk2.server.engine_process import EngineProcess
    from mlxk2.server.host_types import HostSettings
    from mlxk2.server.settings import ServerSettings
    from mlxk2.settings import Settings
    from support import fake_engine

    given = json.loads(settings)
    web, host = ServerSettings(port=0, **given.get("web", {})), HostSettings(**given.get("host", {}))
    options = serve.ServeOptions(model=folder, web=web, host=host)
    plan = serve.prepare(options, Settings.from_env(os.environ))
    with process_io() as io:

        def tell(banner: serve.ServeResult) -> None:
            io.stdout.write(to_json(success("serve", banner)) + "\n")
            io.stdout.flush()

        return serve.run(plan, tell, partial(EngineProcess, target=fake_engine.TARGET))


if __name__ == "__main__":
    sys.exit(_serve_slowly(*sys.argv[1:]))
