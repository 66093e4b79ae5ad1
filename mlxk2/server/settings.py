"""How the HTTP side is set up. Knows no framework and no engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address

from mlxk2.runner.request import Sampling

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class ServerSettings:
    """Where to listen, whom to answer, and how much.

    `bound`: the address that `host` turned out to be, once the server listens.
    `api_keys` empty: everybody is answered. `cors_origins`: pages of which sites may ask, "*" for all.
    `allowed_hosts`: names that the Host header may have besides those of this machine; on other addresses than loopback
    it is looked at only where some are given. `models`: what is listed; empty: every model. `sampling` is what a request
    does not say.
    Units: bytes, seconds. `head_timeout_s` is how long a connection may ask nothing, or not to the end of a request's head;
    there may be `max_connections`, and more where more requests may wait. `request_timeout_s` is from the first byte of a
    request to the last of its answer; `keepalive_s` how long a stream may be silent. `stop_s` is for all that is to be done
    after a signal.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    bound: str | None = None
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    cors_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    max_tokens: int | None = None
    sampling: Sampling = Sampling(temperature=1.0, top_p=1.0, repetition_penalty=1.0)
    max_choices: int = 16
    max_body_bytes: int = 32 * 2**20
    body_timeout_s: float = 60.0
    head_timeout_s: float = 30.0
    max_connections: int = 1024
    request_timeout_s: float = 3600.0
    keepalive_s: float = 5.0
    stop_s: float = 4.2
    log_json: bool = False
    log_level: str = "info"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        address = self.bound or self.host
        try:
            return ip_address(address.partition("%")[0]).is_loopback
        except ValueError:
            # A name can lead anywhere; this one is the system's own.
            return address == "localhost"
