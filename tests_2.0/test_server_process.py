"""`serve` and `ps` as processes: banner, signals, exit codes, the port; and everything that is refused before a start."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from support import cache_builder as build
from support.call import call, checked
from support.isolation import IsolatedCache
from support.processes import gone, wait_until
from support.serving import CLI, FAKE, RunningServer, running
from support.tiny_model import scripted_model

from mlxk2 import errors
from mlxk2.operations import serve
from mlxk2.server.settings import ServerSettings
from mlxk2.settings import Settings

CAN_SERVE = sys.version_info >= (3, 11) and all(map(importlib.util.find_spec, ("fastapi", "uvicorn")))
needs_server = pytest.mark.skipif(
    not CAN_SERVE, reason="the extra `serve` is not installed, or Python is older than 3.11"
)
real_engine = pytest.mark.mlx_real

NAME = "mlx-community/tiny-Instruct"


@pytest.fixture
def cache(isolated_cache: IsolatedCache) -> IsolatedCache:
    build.Repo(isolated_cache.hub, NAME).snapshot(build.chat_model())
    return isolated_cache


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return scripted_model(tmp_path / "scripted", "Hello there.")


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[tuple[RunningServer, str]]:
    """A server whose engine answers without end, and the name of its model."""
    folder = str(scripted_model(tmp_path / "slow", "Hello there."))
    with running(FAKE, folder) as server:
        yield server, folder


def assert_can_listen(port: int) -> None:
    # Others may have been given just this port, for a moment.
    wait_until(lambda: _can_listen(port), "the port is free")


def _can_listen(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen()
        except OSError:
            return False
    return True


def stopping_within(seconds: float) -> str:
    return json.dumps({"web": {"stop_s": seconds}})


# --- a server lives and ends ------------------------------------------------------------------------------------------


@needs_server
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 0), (signal.SIGHUP, 0), (signal.SIGINT, 130)], ids=["TERM", "HUP", "INT"]
)
def test_it_tells_where_it_listens_and_ends_on_a_signal(number: int, code: int, cache: IsolatedCache) -> None:
    with running(CLI, "--json", "--port", "0", "--max-tokens", "77", env=cache.env) as server:
        answer = checked(server.out.read_text(), 0)
        port = answer["data"]["port"]
        assert answer["command"] == "serve"
        assert answer["data"] == {
            "host": "127.0.0.1", "port": port, "model": None, "max_tokens": 77, "url": f"http://127.0.0.1:{port}",
        }  # fmt: skip
        assert server.get("/health")["status"] == "healthy"
        server.process.send_signal(number)
        assert server.process.wait(20) == code
        assert_can_listen(port)
        # The banner stays the one document, and standard error is quiet.
        assert server.out.read_text() == json.dumps(answer, indent=2) + "\n"
        assert server.err.read_text() == ""


@needs_server
def test_people_read_a_line_and_the_log(cache: IsolatedCache) -> None:
    with running(CLI, "--port", "0", env=cache.env, wait=False) as server:
        wait_until(lambda: server.out.read_text().endswith("\n"), "the line is there")
        assert server.out.read_text().startswith("serve: http://127.0.0.1:")
        wait_until(lambda: "startup complete" in server.err.read_text(), "the log has begun")


@needs_server
def test_every_line_of_the_log_is_json_if_so_wished(cache: IsolatedCache) -> None:
    with running(CLI, "--json", "--log-json", "--port", "0", env=cache.env) as server:
        server.get("/health")
        server.process.terminate()
        assert server.process.wait(20) == 0
        lines = [json.loads(line) for line in server.err.read_text().splitlines()]
        assert any(line.get("path") == "/health" for line in lines)


@needs_server
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_a_stream_is_cut_and_no_engine_stays(number: int, slow: tuple[RunningServer, str]) -> None:
    server, name = slow
    engine = server.wait_for_engine()
    connection, answer = server.stream(name)
    began = time.monotonic()
    server.process.send_signal(number)
    rest = answer.read()
    server.process.wait(20)
    assert time.monotonic() - began < 6
    assert b"server_stopping" in rest or b"stopping" in rest
    assert gone(engine)
    assert_can_listen(server.port)
    connection.close()


@needs_server
@pytest.mark.parametrize("part", ["slow", "deaf"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_who_asks_twice_waits_no_longer(number: int, part: str, tmp_path: Path) -> None:
    folder = str(scripted_model(tmp_path / part, "Hello there."))
    # Without the second signal the streams alone would go on for 42 s.
    with running(FAKE, folder, stopping_within(60)) as server:
        engine = server.wait_for_engine()
        streams = [server.stream(folder)] if part == "slow" else []
        server.process.send_signal(number)
        wait_until(lambda: "Shutting down" in server.err.read_text(), "the end has begun")
        began = time.monotonic()
        server.process.send_signal(number)
        for connection, answer in streams:
            assert b"server_stopping" in answer.read()
            connection.close()
        server.process.wait(20)
        assert time.monotonic() - began < 20
        assert gone(engine)
        assert_can_listen(server.port)
        assert "Traceback" not in server.err.read_text()


@needs_server
@pytest.mark.parametrize("how", ["hang", "deaf", "stopped"])
def test_an_engine_that_is_stuck_does_not_hold_up_the_end(how: str, tmp_path: Path) -> None:
    folder = str(scripted_model(tmp_path / ("slow" if how == "stopped" else how), "Hello there."))
    with running(FAKE, folder, stopping_within(1)) as server:
        engine = server.wait_for_engine()
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        if how != "deaf":
            body = {"model": folder, "messages": [{"role": "user", "content": "hi"}]}
            connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
            wait_until(lambda: server.get("/v1/status")["running"] == 1, "the engine has something to do")
        if how == "stopped":
            os.kill(engine, signal.SIGSTOP)
        began = time.monotonic()
        server.process.terminate()
        assert server.process.wait(20) == signal.SIGTERM
        assert time.monotonic() - began < 5
        # Five seconds are promised in all: this much is left for Python's own end.
        assert ServerSettings().stop_s < 4.5
        assert gone(engine)
        assert_can_listen(server.port)
        connection.close()


@needs_server
def test_nothing_stays_of_a_server_that_is_killed(slow: tuple[RunningServer, str]) -> None:
    server, name = slow
    engine = server.wait_for_engine()
    connection, _ = server.stream(name)
    server.process.kill()
    server.process.wait()
    wait_until(lambda: gone(engine), "the engine has ended with its parent")
    connection.close()


@needs_server
def test_an_engine_that_is_killed_is_started_again_and_health_is_truthful(slow: tuple[RunningServer, str]) -> None:
    server, name = slow
    engine = server.wait_for_engine()
    connection, answer = server.stream(name)
    os.kill(engine, signal.SIGKILL)
    assert b"engine_lost" in answer.read() or server.get("/v1/status")["restarts"] == 1
    assert server.wait_for_engine() != engine
    assert server.get("/health")["status"] == "healthy"
    connection.close()


@needs_server
@real_engine
def test_the_real_engine_answers_and_ends_with_its_server(model: Path, cache: IsolatedCache) -> None:
    with running(CLI, "--json", "--port", "0", "--model", str(model), env=cache.env) as server:
        assert server.banner["data"]["model"] == str(model)
        engine = server.wait_for_engine()
        connection, answer = server.stream(str(model))
        assert answer.read().rstrip().endswith(b"data: [DONE]")
        connection.close()
        told = call("ps", "--port", str(server.port), "--json", env=cache.env).data
        assert (told["state"], told["loaded"][0]["name"], told["loaded"][0]["pid"]) == ("ready", str(model), engine)
        assert told["loaded"][0]["weights_bytes"] > 0
        shown = call("ps", "--port", str(server.port), env=cache.env).stdout
        assert shown.startswith(f"Server: http://127.0.0.1:{server.port} — ready, 0 running (of 32), 0 waiting")
        server.process.kill()
        server.process.wait()
        wait_until(lambda: gone(engine), "the engine has ended with its parent")


@needs_server
def test_a_launcher_may_start_it_alone(cache: IsolatedCache, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts.json"
    hosts.write_text('[["127.0.0.1:1"]]', encoding="utf-8")
    alone = {"MLX_HOSTFILE": str(hosts), "MLX_RANK": "0"}
    with running(CLI, "--json", "--port", "0", env={**cache.env, **alone}) as server:
        assert server.get("/health")["status"] == "healthy"


# --- refused before anything starts -----------------------------------------------------------------------------------


@needs_server
@pytest.mark.parametrize("verb", ["serve", "server"])
def test_a_port_in_use_is_a_clear_error_before_anything_is_loaded(verb: str, cache: IsolatedCache) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = call(verb, "--port", str(port), "--json", env=cache.env)
    assert (result.code, result.json and result.json["command"]) == (1, "serve")
    assert result.error["type"] == "address_in_use"
    assert f"127.0.0.1:{port}" in result.error["message"]
    assert f"--port {port + 1}" in result.error["hint"]


@needs_server
@pytest.mark.skipif(not Path("/proc/self/wchan").exists(), reason="only Linux tells what a process waits for")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_a_signal_while_an_error_is_told_ends_it_in_good_order(number: int, cache: IsolatedCache) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b" ")
    os.set_blocking(writer, True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [*CLI, "--port", str(taken.getsockname()[1])]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=writer, env={**os.environ, **cache.env})
        os.close(writer)
        wait_until(lambda: "pipe_write" in Path(f"/proc/{process.pid}/wchan").read_text(), "it cannot tell its error")
        process.send_signal(number)
        with open(reader, encoding="utf-8") as told:
            text = told.read()
        assert process.wait(20) == 130
    assert "Traceback" not in text


@needs_server
def test_an_address_of_another_machine_is_a_clear_error(cache: IsolatedCache) -> None:
    words = [*CLI, "--host", "192.0.2.1", "--port", "0", "--insecure", "--json"]
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, timeout=60, env={**os.environ, **cache.env}
    )
    error = checked(done.stdout, done.returncode)["error"]
    assert (error["type"], "not an address of this machine" in error["message"]) == ("address_not_available", True)
    assert "--host 127.0.0.1" in error["hint"] and "--port" not in error["hint"]


@needs_server
@pytest.mark.parametrize("host", ["a" * 70, "a..b"])
def test_a_name_that_leads_nowhere_is_a_clear_error(host: str, cache: IsolatedCache) -> None:
    error = call("serve", "--host", host, "--port", "0", "--insecure", "--json", env=cache.env).error
    assert (error["type"], host in error["message"]) == ("address_not_available", True)
    assert "--host 127.0.0.1" in error["hint"] and "--port" not in error["hint"]


@needs_server
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_other_machines_are_let_in_only_with_a_key_or_on_purpose(host: str, cache: IsolatedCache) -> None:
    refused = call("serve", "--host", host, "--port", "0", "--json", env=cache.env)
    assert (refused.code, refused.error["type"]) == (2, "CommandError")
    assert "--api-key-file" in refused.error["hint"] and "--insecure" in refused.error["hint"]


@needs_server
@pytest.mark.parametrize("model", ["no-such-model", "./no-such-folder"])
def test_a_model_that_is_not_there_is_an_error_at_once(model: str, cache: IsolatedCache) -> None:
    for flag in ("--model", "--models"):
        result = call("serve", flag, model, "--port", "0", "--json", env=cache.env)
        assert (result.code, result.error["type"]) == (1, "model_not_found")


@needs_server
def test_a_broken_model_is_an_error_at_once(cache: IsolatedCache) -> None:
    files = build.chat_model()
    build.Repo(cache.hub, "org/broken").snapshot({**files, "model.safetensors": files["model.safetensors"][:-1]})
    result = call("serve", "--model", "org/broken", "--port", "0", "--json", env=cache.env)
    assert (result.code, result.error["type"]) == (1, "model_unhealthy")


@pytest.mark.parametrize(
    "words",
    [
        ("--port", "65536"), ("--port", "x"), ("--max-tokens", "0"), ("--max-concurrency", "0"), ("--idle-timeout", "0"),
        ("--idle-timeout", "nan"), ("--max-body-bytes", "lots"), ("--prefix-cache-bytes", "-1"), ("--log-level", "loud"),
        ("--api-key", "two words"), ("--api-key", ""), ("--api-key", "schlüssel"), ("--api-key-file", "/no/such/file"),
        ("--cors-origin", "example.org"), ("--cors-origin", "https://example.org/page"), ("--cors-origin", "https://*.example.org"),
        ("--cors-origin", "https://a.org,https://b.org"), ("--cors-origin", "null"), ("--cors-origin", ""),
        ("--allowed-host", "http://x"), ("--allowed-host", "x:8000"), ("--allowed-host", "*"), ("--allowed-host", "[::1]"),
        ("--max-body-bytes", "0"), ("--max-body-bytes", "0.1"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_wrong_values_are_usage_errors(words: tuple[str, ...], cache: IsolatedCache) -> None:
    # Where the value is taken, nothing is served all the same.
    result = call("serve", *words, "--model", "no-such-model", "--json", env=cache.env)
    assert (result.code, result.error["type"]) == (2, "CommandError")
    assert words[0] in result.error["message"]


@needs_server
def test_an_origin_is_taken_as_people_write_it(cache: IsolatedCache) -> None:
    given = ("--cors-origin", "HTTPS://Example.org/", "--cors-origin", "http://[::1]:3000", "--allowed-host", "My.box")
    with running(CLI, "--json", "--port", "0", *given, env=cache.env) as server:
        for origin in ("https://example.org", "http://[::1]:3000"):
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
            connection.request("GET", "/v1/models", headers={"Host": "my.box", "Origin": origin})
            answer = connection.getresponse()
            assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, origin)
            connection.close()


@pytest.mark.parametrize("command", ["serve", "ps"])
def test_a_wrong_line_of_a_key_file_is_named_and_not_shown(command: str, cache: IsolatedCache, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# mine\n\n  # indented\nsecretkey0\nsecretkey1   # trailing\n")
    result = call(command, "--api-key-file", str(file), "--port", "1", "--json", env=cache.env)
    assert (result.code, result.error["type"]) == (2, "CommandError")
    assert f"{file}, line 5" in result.error["message"]
    assert "line of its own" in result.error["hint"] and "secretkey" not in result.stdout


def test_an_empty_key_file_is_no_open_door(cache: IsolatedCache, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# nothing\n\n")
    result = call("serve", "--api-key-file", str(file), "--json", env=cache.env)
    assert (result.code, result.error["type"]) == (2, "CommandError")
    assert "holds no key" in result.error["message"]


def test_an_old_python_or_mlx_lm_is_told_which_version_is_needed() -> None:
    for python, mlx_lm in (((3, 9), "0.29.1"), ((3, 10), "0.31.3"), ((3, 12), "0.31.3"), ((3, 12), None)):
        with pytest.raises(errors.DependencyMissing, match=r"mlx-lm 0\.32 or newer.*Python 3\.11 or newer") as refused:
            serve.check_packages(python, mlx_lm)
        assert "mlxk2[serve]" in (refused.value.hint or "")


@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "prometheus_client"])
def test_missing_packages_are_named_with_the_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(errors.DependencyMissing, match=package) as refused:
        serve.check_packages((3, 12), "0.32.0")
    assert refused.value.hint == "pip install 'mlxk2[serve]'"


@pytest.mark.skipif(CAN_SERVE, reason="this Python can serve")
def test_where_it_cannot_serve_the_command_says_so(cache: IsolatedCache) -> None:
    result = call("serve", "--json", env=cache.env)
    assert (result.code, result.error["type"]) == (1, "dependency_missing")


def test_help_and_ps_load_no_web_framework() -> None:
    script = (
        "import sys\nfrom mlxk2.cli import main\n"
        "for words in (['serve', '--help'], ['ps', '--port', '1']): main(words)\n"
        "heavy = {'fastapi', 'uvicorn', 'starlette', 'pydantic', 'prometheus_client', 'mlx', 'asyncio'} & set(sys.modules)\n"
        "sys.exit(repr(sorted(heavy)) if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


# --- which models -----------------------------------------------------------------------------------------------------


def catalog(cache: IsolatedCache, **options: object) -> serve.Catalog:
    return serve.Catalog(serve.ServeOptions(**options), Settings.from_env(cache.env))  # type: ignore[arg-type]


def test_names_are_resolved_as_everywhere(cache: IsolatedCache) -> None:
    build.Repo(cache.hub, "org/other-Instruct").snapshot(build.chat_model())
    models = catalog(cache)
    assert models.resolve("tiny-Instruct").ref.name == NAME
    assert models.resolve("TINY").ref.name == NAME
    with pytest.raises(errors.AmbiguousMatch):
        models.resolve("instruct")
    with pytest.raises(errors.ModelNotFound):
        models.resolve("nothing")


def test_no_name_from_outside_is_a_path(cache: IsolatedCache, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model.parent)
    models = catalog(cache)
    for name in (
        str(model),
        "./scripted",
        "../" + model.parent.name + "/scripted",
        "~",
        ".",
        "scripted",
        "x/../y",
        "a\0b",
    ):
        with pytest.raises(errors.ModelNotFound) as refused:
            models.resolve(name)
        # Nothing tells whether there is such a folder.
        assert refused.value.hint == "GET /v1/models lists those that are"


def test_a_folder_that_the_command_line_names_is_served(cache: IsolatedCache, model: Path) -> None:
    models = catalog(cache, model=str(model))
    assert models.resolve(str(model)).ref.path == model
    assert str(model) in [info.name for info in models.list()]


def test_only_models_that_are_allowed_are_served(cache: IsolatedCache) -> None:
    build.Repo(cache.hub, "org/secret").snapshot(build.chat_model())
    models = catalog(cache, models=("tiny-Instruct",))
    assert models.names == (NAME,)
    assert models.resolve("tiny").ref.name == NAME
    with pytest.raises(errors.ModelNotFound, match="not served"):
        models.resolve("org/secret")
    assert [info.name for info in models.list()] == [NAME]


def test_the_model_that_is_loaded_first_is_allowed_too(cache: IsolatedCache) -> None:
    build.Repo(cache.hub, "org/first").snapshot(build.chat_model())
    assert catalog(cache, model="org/first", models=(NAME,)).names == (NAME, "org/first")


# --- ps ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def other_server() -> Iterator[int]:
    """A web server that is none of ours: everything is `{}` there, with a key 401, by the name of localhost 403."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_known = not self.headers.get("Host", "").startswith("localhost")
            self.send_response(403 if not is_known else 401 if self.headers.get("Authorization") else 200)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_ps_without_a_server_is_a_clear_error(cache: IsolatedCache) -> None:
    result = call("ps", "--port", "1", "--json", env=cache.env)
    assert (result.code, result.error["type"]) == (1, "server_unreachable")
    assert "http://127.0.0.1:1" in result.error["message"]
    assert result.error["hint"] == "mlxk2 serve --port 1"
    elsewhere = call("ps", "--host", "::1", "--port", "1", "--json", env=cache.env)
    assert elsewhere.error["hint"] == "mlxk2 ps --host ADDRESS --port N"


def test_ps_knows_a_stranger(other_server: int, cache: IsolatedCache) -> None:
    result = call("ps", "--port", str(other_server), "--json", env=cache.env)
    assert (result.code, result.error["type"]) == (1, "server_unreachable")
    assert "no server of MLX Knife" in result.error["message"]
    assert result.error["hint"] == "mlxk2 ps --port N"


def test_ps_by_a_name_that_is_not_answered_says_by_which_to_ask(other_server: int, cache: IsolatedCache) -> None:
    result = call("ps", "--host", "localhost", "--port", str(other_server), "--json", env=cache.env)
    assert (result.code, result.error["type"]) == (1, "server_unreachable")
    assert result.error["hint"] == f"mlxk2 ps --port {other_server}"


def test_ps_with_a_wrong_key_says_so(other_server: int, cache: IsolatedCache) -> None:
    result = call("ps", "--port", str(other_server), "--json", env={**cache.env, "MLXK2_API_KEY": "wrong"})
    assert (result.code, result.error["type"]) == (1, "auth_error")


@needs_server
def test_ps_opens_a_server_with_its_key(cache: IsolatedCache, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# for me\nfirst-key\nsecond-key\n")
    with running(CLI, "--json", "--port", "0", "--api-key-file", str(keys), env=cache.env) as server:
        port = str(server.port)
        without = call("ps", "--port", port, "--json", env=cache.env)
        assert (without.error["type"], "demands a key" in without.error["message"]) == ("auth_error", True)
        assert without.error["hint"] == f"mlxk2 ps --port {port} --api-key-file FILE"
        told = call("ps", "--port", port, "--api-key", "second-key", "--json", env=cache.env)
        assert (told.data["state"], told.data["loaded"]) == ("none", [])
        shown = call("ps", "--port", port, env={**cache.env, "MLXK2_API_KEY": "first-key"})
        assert (shown.code, shown.stdout.count("\n")) == (0, 1)
        with_file = ("ps", "--port", port, "--api-key-file", str(keys), "--json")
        assert call(*with_file, env=cache.env).data["state"] == "none"
        keys.write_text("third-key\n")
        wrong = call(*with_file, env=cache.env)
        assert (wrong.error["type"], "another key" in wrong.error["message"]) == ("auth_error", True)
        assert wrong.error["hint"] == f"mlxk2 ps --port {port} --api-key-file FILE"
        keys.write_text("# none\n")
        assert "holds no key" in call(*with_file, env=cache.env).error["message"]
        assert "key" not in server.err.read_text()
