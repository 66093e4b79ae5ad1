"""Listen, serve, and end in good order: the one place that knows uvicorn."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Callable

import uvicorn

from mlxk2.errors import AddressInUse, AddressNotAvailable, InternalError, MlxkError, PermissionDenied, ServerStopping
from mlxk2.server.access_log import uvicorn_options
from mlxk2.server.app import create_app
from mlxk2.server.connections import Connections, bounded, room_for
from mlxk2.server.engine_keeper import LOG
from mlxk2.server.engine_process import EngineProcess, StartEngine
from mlxk2.server.host import ModelHost
from mlxk2.server.host_types import HostSettings, Resolve
from mlxk2.server.models import Catalog
from mlxk2.server.settings import ServerSettings

_BACKLOG = 2048
_HOSTS = "--host 127.0.0.1 for this machine alone, --host 0.0.0.0 for all its addresses"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Service:
    """What is served. `catalog` lists what can be asked for; `start_engine` is what computes."""

    resolve: Resolve
    catalog: Catalog
    host: HostSettings
    web: ServerSettings
    start_engine: StartEngine = EngineProcess


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 takes a free one.

    Raises: AddressInUse, AddressNotAvailable, PermissionDenied.
    """
    try:
        kind, kind_of, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(kind, kind_of, protocol)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "this is no name"
        raise AddressNotAvailable(f"cannot listen on {host}: {reason}", hint=_HOSTS) from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise _no_listening(host, port, error) from error
    return listening


def _no_listening(host: str, port: int, error: OSError) -> MlxkError:
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if error.errno == errno.EADDRINUSE:
        other = port + 1 if 0 < port < 65535 else 8001
        return AddressInUse(
            f"cannot listen on {where}: {error.strerror}",
            hint=f"another port: --port {other}; --port 0 takes a free one",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return PermissionDenied(
            f"cannot listen on {where}: {error.strerror}", hint="a port of 1024 or more: --port 8000"
        )
    no_address = error.errno == errno.EADDRNOTAVAIL
    reason = "this is not an address of this machine" if no_address else error.strerror
    return AddressNotAvailable(f"cannot listen on {where}: {reason}", hint=_HOSTS)


def serve(service: Service, listening: socket.socket, on_listening: Callable[[], None]) -> int:
    """Serve until a signal comes, and return its number; `on_listening` is called once requests are answered."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_serve(service, listening, on_listening))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's event loop where it is installed, for each token goes through it."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _serve(service: Service, listening: socket.socket, on_listening: Callable[[], None]) -> int:
    host = ModelHost(service.resolve, service.host, start_engine=service.start_engine)
    bound, port = listening.getsockname()[:2]
    app = create_app(host, replace(service.web, port=port, bound=bound), service.catalog)
    # h11 bounds a request's head; the faster parser does not.
    options = {
        **uvicorn_options(service.web),
        "timeout_graceful_shutdown": int(service.web.stop_s),
        "ws": "none",
        "http": "h11",
    }
    # Whoever waits has a connection.
    most = max(service.web.max_connections, service.host.max_concurrency + service.host.max_queue)
    connections = partial(
        Connections,
        most=room_for(most),
        head_timeout_s=service.web.head_timeout_s,
        on_refused=app.state.serving.metrics.refuse_connection,
    )
    server = _Server(uvicorn.Config(app, **options), on_listening, connections)
    await host.start()
    ending = _Ending(server, host, service.web.stop_s)
    preload = asyncio.create_task(_preload(host, service.host.default_model))
    ending.await_signals()
    try:
        await server.serve(sockets=[listening])
    finally:
        preload.cancel()
        await ending.finish()
    if not server.started:
        raise InternalError("the server could not start; its log says why")
    return ending.signal


async def _preload(host: ModelHost, model: str | None) -> None:
    """Load the default model before anybody asks; where that fails the server stays, and says so."""
    if model is None:
        return
    try:
        await host.load(model)
    except ServerStopping:
        LOG.info("%s was not loaded: the server stops", model)
    except MlxkError as error:
        LOG.error("%s could not be loaded: %s", model, error.message)


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers, which tells when it listens, and bounds its connections."""

    def __init__(
        self,
        config: uvicorn.Config,
        on_listening: Callable[[], None],
        watch_over: Callable[[Collection[Any]], Connections],
    ) -> None:
        super().__init__(config)
        self._on_listening = on_listening
        self._connections = watch_over(self.server_state.connections)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then tell."""
        self.config.http_protocol_class = bounded(self.config.http_protocol_class, self._connections)
        await super().startup(sockets=sockets)
        if self.started:
            self._on_listening()

    async def on_tick(self, counter: int) -> bool:
        """Do what is to be done ten times a second; return whether to end."""
        if counter % 10 == 0:
            self._connections.look()
        return bool(await super().on_tick(counter))

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


class _Ending:
    """What a signal sets off: no new requests, answers end or are cut, the engine ends."""

    def __init__(self, server: uvicorn.Server, host: ModelHost, within_s: float) -> None:
        self.signal = 0
        self._server, self._host, self._within_s = server, host, within_s
        self._stopping: asyncio.Task[None] | None = None
        self._hurrying: asyncio.Task[None] | None = None

    def await_signals(self) -> None:
        """Listen to signals, to the end; what the caller ignores, as nohup does with SIGHUP, stays ignored."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self._begin, number)

    def _begin(self, number: int) -> None:
        if self._stopping is not None:
            # Asked twice: nothing is waited for any more.
            self._hurrying = asyncio.create_task(self._hurry(self._stopping))
            return
        self.signal = number
        self._server.should_exit = True
        self._stopping = asyncio.create_task(self._host.stop(self._within_s))

    async def _hurry(self, stopping: asyncio.Task[None]) -> None:
        await self._host.stop()
        await asyncio.wait({stopping})
        # Whoever has not read the last words by now does not get them.
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()

    async def finish(self) -> None:
        """Return when the engine has ended."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._host.stop(self._within_s))
        await self._stopping
