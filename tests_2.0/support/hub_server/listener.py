"""A listening socket and a thread for each client. Knows nothing of HTTP."""

from __future__ import annotations

import select
import socket
import threading
from typing import Callable

from .wire import Connection, Exchange


class Listener:
    """A listening socket and its threads; `handle` gets every request."""

    def __init__(self, host: str, port: int, handle: Callable[[Exchange], None]) -> None:
        self._handle = handle
        self._stopping = threading.Event()
        self._connections: set[Connection] = set()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._sock = socket.create_server((host, port), backlog=128)
        self._wake, self._waker = socket.socketpair()
        self.port: int = self._sock.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, name=f"hub-{self.port}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End every connection and wait for every thread."""
        self._stopping.set()
        self._waker.send(b"x")
        self._thread.join()
        with self._lock:
            for connection in self._connections:
                connection.interrupt()
        for thread in self._threads:
            thread.join()
        for sock in (self._sock, self._wake, self._waker):
            sock.close()

    def _accept(self) -> None:
        while True:
            ready, _, _ = select.select([self._sock, self._wake], [], [])
            if self._wake in ready:
                return
            try:
                sock, _ = self._sock.accept()
            except OSError:
                continue  # gone again before it was taken
            self._start(sock)

    def _start(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        connection = Connection(sock, self.port, self._stopping)
        thread = threading.Thread(target=self._serve, args=(connection,), name=f"hub-{self.port}-client", daemon=True)
        with self._lock:
            self._connections.add(connection)
        self._threads = [other for other in self._threads if other.is_alive()] + [thread]
        thread.start()

    def _serve(self, connection: Connection) -> None:
        try:
            connection.serve(self._handle)
        finally:
            with self._lock:
                self._connections.discard(connection)
