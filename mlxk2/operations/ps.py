"""`ps`: ask a running server what it has loaded and how busy it is."""

from __future__ import annotations

import http.client
import json
import shlex
from dataclasses import dataclass, fields
from typing import Any

from mlxk2.errors import AuthError, ServerUnreachable

_PATIENCE_S = 5.0
_LONGEST_ANSWER = 2**20


@dataclass(frozen=True)
class ServerAddress:
    """Where a server listens, and what opens it."""

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None

    @property
    def url(self) -> str:
        """The address as it is shown."""
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"

    @property
    def is_here(self) -> bool:
        """Whether it is one of this machine's own names."""
        return self.host in ("127.0.0.1", "localhost")

    def command(self, verb: str, *, host: str | None = None, port: int | str | None = None) -> str:
        """Return a command with this address, or with another host or port; the usual ones go without saying."""
        host, port = host or self.host, port or self.port
        flags = f" --host {shlex.quote(host)}" if host != ServerAddress.host else ""
        return f"mlxk2 {verb}{flags}" + (f" --port {port}" if port != ServerAddress.port else "")


@dataclass(frozen=True)
class LoadedModel:
    """A model in a server's memory. Units: bytes, seconds, tokens; None: not known, or not yet."""

    name: str
    state: str
    pid: int | None
    loaded_s: float | None
    context_length: int | None
    weights_bytes: int | None
    memory_bytes: int | None
    peak_memory_bytes: int | None
    prefix_cache_bytes: int | None


@dataclass(frozen=True)
class PsResult:
    """How a server is. `running` requests are being answered, `waiting` ones are not yet."""

    url: str
    state: str
    problem: str | None
    uptime_s: float
    running: int
    waiting: int
    max_concurrency: int
    max_queue: int
    restarts: int
    loaded: tuple[LoadedModel, ...]


def ps(address: ServerAddress) -> PsResult:
    """Ask the server there. Raises: ServerUnreachable, AuthError."""
    status, body = _get(address, "/v1/status")
    if status == 401:
        raise _locked(address)
    if status == 403:
        raise ServerUnreachable(
            f"the server at {address.url} answers to other names only",
            hint=address.command("ps", host=ServerAddress.host),
        )
    try:
        told: Any = json.loads(body) if status == 200 else None
        loaded = tuple(_read(LoadedModel, model) for model in told["loaded"])
        rest = {**told, "loaded": loaded, "url": address.url}
        return PsResult(**{field.name: rest[field.name] for field in fields(PsResult)})
    except (ValueError, TypeError, KeyError) as error:
        raise ServerUnreachable(
            f"what listens at {address.url} is no server of MLX Knife, or another version's",
            hint=address.command("ps", port="N"),
        ) from error


def _locked(address: ServerAddress) -> AuthError:
    words = "a key" if address.api_key is None else "another key than the one given"
    return AuthError(
        f"the server at {address.url} demands {words}", hint=f"{address.command('ps')} --api-key-file FILE"
    )


def _read(kind: Any, told: Any) -> Any:
    return kind(**{field.name: told[field.name] for field in fields(kind)})


def _get(address: ServerAddress, path: str) -> tuple[int, bytes]:
    """Raises: ServerUnreachable."""
    headers = {"Accept": "application/json"}
    if address.api_key is not None:
        headers["Authorization"] = f"Bearer {address.api_key}"
    connection = http.client.HTTPConnection(address.host, address.port, timeout=_PATIENCE_S)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read(_LONGEST_ANSWER)
    except (OSError, http.client.HTTPException) as error:
        raise ServerUnreachable(
            f"no server answers at {address.url} ({error or type(error).__name__})",
            hint=address.command("serve") if address.is_here else address.command("ps", host="ADDRESS", port="N"),
        ) from error
    finally:
        connection.close()
