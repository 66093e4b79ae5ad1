"""An https address in front of the loopback Hub: a certificate made on the spot, and bytes passed on as they come."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest


class TlsFront:
    """Listens with TLS and passes everything on to `endpoint`."""

    def __init__(self, endpoint: str, folder: Path) -> None:
        self._inner = (urlsplit(endpoint).hostname, urlsplit(endpoint).port)
        self.certificate = folder / "certificate.pem"
        self._key = folder / "key.pem"
        self._make_certificate()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.certificate, self._key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._serve, daemon=True)]

    def __enter__(self) -> TlsFront:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        for place in (self._listener, *self._open):
            with suppress(OSError):
                place.shutdown(socket.SHUT_RDWR)
            place.close()
        for thread in self._threads:
            thread.join(timeout=5)

    def _make_certificate(self) -> None:
        openssl = shutil.which("openssl")
        if openssl is None:
            pytest.skip("needs the openssl command to make a certificate")
        names = "subjectAltName=IP:127.0.0.1"
        words = [
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-addext",
            names,
        ]
        files = ["-keyout", str(self._key), "-out", str(self.certificate)]
        subprocess.run([openssl, *words, *files], check=True, capture_output=True)

    def _serve(self) -> None:
        while True:
            try:
                raw, _ = self._listener.accept()
            except OSError:
                return
            try:
                outer: socket.socket = self._context.wrap_socket(raw, server_side=True)
            except (OSError, ValueError):
                raw.close()
                continue
            inner = socket.create_connection(self._inner)
            self._open += [outer, inner]
            for source, target in ((outer, inner), (inner, outer)):
                thread = threading.Thread(target=_pass_on, args=(source, target), daemon=True)
                self._threads.append(thread)
                thread.start()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError, ValueError):
        while True:
            data = source.recv(65536)
            if not data:
                break
            target.sendall(data)
    for place in (source, target):
        with suppress(OSError):
            place.shutdown(socket.SHUT_RDWR)
