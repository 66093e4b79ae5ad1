"""The hub client, set up: our address and token, a time-out on every request, no output and no call that nobody asked for.

Works with its three HTTP libraries: requests (0.x), httpx (1.x), httpx2 (2.x).
"""

from __future__ import annotations

import logging
import os
import re
import ssl
from typing import Any
from urllib.parse import urlsplit

from mlxk2 import __version__
from mlxk2.errors import AccessDenied, Offline, UsageError
from mlxk2.settings import HubSettings

# A commit, and the end of an upload, may keep the Hub busy for longer than a question does.
_LONGEST_WORK_S = 60.0
_ADDRESS = re.compile(r"https?://[A-Za-z0-9._\-\[\]:]+(/[A-Za-z0-9._~/\-]*)?", re.IGNORECASE)
_LONGEST_TOKEN_FILE = 4096


def connect(hub: HubSettings, token: str | None = None) -> Any:
    """Return an HfApi for the configured Hub; `token` None looks for one. Opens no socket yet.

    Raises: Offline, UsageError (HF_ENDPOINT is no address), AccessDenied (a token that cannot be sent).
    """
    check_reachable(hub)
    token = token or find_token(hub)
    if token is not None and not is_sendable(token):
        raise AccessDenied("the token holds characters that no token has", hint="check HF_TOKEN: hf_ and letters")
    from huggingface_hub import HfApi, constants

    constants.HF_HUB_DISABLE_TELEMETRY = True
    _set_time_outs(hub)
    _silence()
    return HfApi(
        endpoint=hub.endpoint,
        # False, unlike None, keeps the client from looking for a token in places that are not this user's.
        token=token or False,
        library_name="mlxk2",
        library_version=__version__,
    )


def check_reachable(hub: HubSettings) -> None:
    """Raise Offline, or UsageError, where the Hub must not or cannot be asked."""
    if hub.offline:
        raise Offline("HF_HUB_OFFLINE is set: no connection is opened", hint="unset HF_HUB_OFFLINE to use the network")
    if not _ADDRESS.fullmatch(hub.endpoint) or not _is_address(hub.endpoint):
        raise UsageError("HF_ENDPOINT is no http or https address", hint="unset HF_ENDPOINT, or use https://HOST")
    for kind in ("http", "https", "all"):
        proxy = hub.proxies.get(kind)
        if proxy is not None and not _is_address(proxy if "://" in proxy else f"http://{proxy}"):
            raise UsageError(
                f"the proxy for {kind} is no http or https address",
                hint=f"{kind.upper()}_PROXY=http://HOST:PORT, or unset it",
            )


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def find_token(hub: HubSettings) -> str | None:
    """Return the user's token: of the environment, else of the file that `hf auth login` writes."""
    if hub.token is not None:
        return hub.token
    try:
        if not os.path.isfile(hub.token_file):
            return None
        with open(hub.token_file, encoding="utf-8") as file:
            return file.read(_LONGEST_TOKEN_FILE).strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def is_sendable(token: str) -> bool:
    """Tell whether a token can stand in a header."""
    return token.isascii() and token.isprintable() and " " not in token


def http_library() -> Any:
    """Return the module of the HTTP library that the installed hub client uses: requests, httpx or httpx2."""
    import huggingface_hub

    if not hasattr(huggingface_hub, "set_client_factory"):
        import requests

        return requests
    try:
        from huggingface_hub.utils import httpx
    except ImportError:
        import httpx  # the client before 1.31 does not hand it on
    return httpx


def _set_time_outs(hub: HubSettings) -> None:
    """The client asks most questions without a time-out, explicitly; so each request gets one as it leaves."""
    import huggingface_hub

    library = http_library()
    if not hasattr(huggingface_hub, "set_client_factory"):
        huggingface_hub.configure_http_backend(lambda: _requests_session(library, hub))
        return

    def limit(request: Any) -> None:
        answer_s = _answer_s(request.method, str(request.url), hub)
        request.extensions["timeout"] = {
            "connect": hub.answer_timeout_s,
            "read": answer_s,
            "write": answer_s,
            "pool": answer_s,
        }

    def client() -> Any:
        return library.Client(event_hooks={"request": [limit]}, follow_redirects=True, timeout=hub.answer_timeout_s)

    huggingface_hub.set_client_factory(client)


def _requests_session(requests: Any, hub: HubSettings) -> Any:
    class Limited(requests.adapters.HTTPAdapter):  # type: ignore[misc,name-defined]
        def send(self, request: Any, **options: Any) -> Any:
            options["timeout"] = (hub.answer_timeout_s, _answer_s(request.method, request.url or "", hub))
            return super().send(request, **options)

    session = requests.Session()
    # As downloads do; requests itself knows REQUESTS_CA_BUNDLE, which goes before, and certifi's list.
    session.verify = ssl.get_default_verify_paths().cafile or True
    session.mount("http://", Limited())
    session.mount("https://", Limited())
    return session


def _answer_s(method: str, url: str, hub: HubSettings) -> float:
    is_work = method == "PUT" or "/commit/" in url or url.endswith("/commit")
    return max(hub.answer_timeout_s, _LONGEST_WORK_S) if is_work else hub.answer_timeout_s


def _silence() -> None:
    """Take the client's own bars and log lines off stderr; whoever wants the lines adds a handler."""
    from huggingface_hub import constants
    from huggingface_hub.utils import disable_progress_bars

    if constants.HF_HUB_DISABLE_PROGRESS_BARS is not False:
        disable_progress_bars()
    log = logging.getLogger("huggingface_hub")
    log.handlers = [logging.NullHandler()]
    log.propagate = False
    for name in ("httpx", "httpx2", "httpcore", "httpcore2", "urllib3", "filelock"):
        logging.getLogger(name).setLevel(logging.WARNING)
