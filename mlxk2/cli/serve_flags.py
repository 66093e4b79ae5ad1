"""The flags of `serve`: declared in groups, and read into what the operation wants. Knows no framework."""

from __future__ import annotations

import argparse
import re
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from mlxk2.errors import UsageError

if TYPE_CHECKING:
    from mlxk2.operations.serve import ServeOptions
    from mlxk2.settings import Settings

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8000
LOG_LEVELS = ("critical", "error", "warning", "info", "debug")

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_HOST = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?", re.IGNORECASE)
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[^/:?#@\[\]\s,*]+)(:\d{1,5})?", re.IGNORECASE)
_NEW_KEY = "openssl rand -hex 24 makes one"
_FILE_FORM = "one key a line; a comment has a line of its own, which begins with #"
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def add_models(parser: argparse.ArgumentParser) -> None:
    """Declare what is served."""
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help="load this one at the start (a name, or a folder: ./dir); requests that name none get it",
    )
    parser.add_argument(
        "--models",
        action="append",
        default=[],
        metavar="A,B",
        help="serve only these (names, or folders: ./dir), and the one of --model; may be repeated",
    )
    parser.add_argument("--max-tokens", type=_positive, metavar="N", help="limit of answers whose request sets none")
    parser.add_argument(
        "--idle-timeout", type=_seconds, metavar="S", help="unload the model after S seconds without a request"
    )
    parser.add_argument(
        "--prefix-cache-bytes",
        type=_size,
        default=_size("2GiB"),
        metavar="N",
        help="keep so much of prompts that were read: bytes, or 512MB, 2GiB (default 2GiB)",
    )
    parser.add_argument("--wire-memory", action="store_true", help="keep models from being swapped out, where possible")


def add_access(parser: argparse.ArgumentParser) -> None:
    """Declare where the server listens, and whom it answers."""
    parser.add_argument(
        "--host",
        default=DEFAULT_HOST,
        metavar="ADDRESS",
        help="where to listen; 0.0.0.0 lets other machines in (default 127.0.0.1)",
    )
    parser.add_argument(
        "--port", type=port, default=DEFAULT_PORT, metavar="N", help="0 takes a free one (default 8000)"
    )
    parser.add_argument(
        "--api-key",
        action="append",
        default=[],
        metavar="KEY",
        help="demand this key (others see it in the list of processes: better a file, or MLXK2_API_KEY); may be repeated",
    )
    parser.add_argument("--api-key-file", metavar="FILE", help="demand one of the keys in FILE, one a line")
    parser.add_argument("--insecure", action="store_true", help="start without a key even where other machines can ask")
    parser.add_argument(
        "--allowed-host",
        action="append",
        type=_host,
        default=[],
        metavar="NAME",
        help="answer requests whose Host header is NAME, as a proxy sends it; may be repeated",
    )
    parser.add_argument(
        "--cors-origin",
        action="append",
        type=_origin,
        default=[],
        metavar="ORIGIN",
        help="let pages of this site ask, such as https://example.org; * for all; may be repeated",
    )


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Declare how much is taken on."""
    parser.add_argument(
        "--max-concurrency", type=_positive, default=32, metavar="N", help="answer so many at a time (default 32)"
    )
    parser.add_argument(
        "--max-queue", type=_count, default=256, metavar="N", help="let so many wait; more get a 429 (default 256)"
    )
    parser.add_argument(
        "--queue-timeout",
        type=_seconds,
        default=300.0,
        metavar="S",
        help="a request waits at most S seconds for its turn, then gets a 503 (default 300)",
    )
    parser.add_argument(
        "--request-timeout",
        type=_seconds,
        default=3600.0,
        metavar="S",
        help="a request takes at most S seconds, waiting and loading included (default 3600)",
    )
    parser.add_argument(
        "--max-body-bytes",
        type=_some_bytes,
        default=_size("32MiB"),
        metavar="N",
        help="refuse larger requests: bytes, or 1MB, 32MiB (default 32MiB)",
    )


def add_log(parser: argparse.ArgumentParser) -> None:
    """Declare what is written to standard error."""
    parser.add_argument("--log-level", choices=LOG_LEVELS, default="info", help="how much to log (default info)")
    parser.add_argument("--log-json", action="store_true", help="every line of the log is JSON")
    parser.add_argument("--verbose", action="store_true", help="the same as --log-level debug; with --json: log at all")
    parser.add_argument("--reload", action="store_true", help="does nothing; taken so that old scripts go on working")


def options_of(args: argparse.Namespace, settings: Settings, *, as_json: bool) -> ServeOptions:
    """Read everything. Raises: UsageError naming the flag."""
    from mlxk2.operations.serve import ServeOptions
    from mlxk2.runner.request import EngineOptions
    from mlxk2.server.host_types import HostSettings
    from mlxk2.server.settings import ServerSettings

    web = ServerSettings(
        host=args.host,
        port=args.port,
        api_keys=_keys(args, settings),
        cors_origins=tuple(args.cors_origin),
        allowed_hosts=tuple(args.allowed_host),
        max_tokens=args.max_tokens,
        max_body_bytes=args.max_body_bytes,
        request_timeout_s=args.request_timeout,
        log_json=args.log_json,
        log_level=_log_level(args, quiet=args.quiet or as_json),
    )
    host = HostSettings(
        max_concurrency=args.max_concurrency,
        max_queue=args.max_queue,
        queue_timeout_s=args.queue_timeout,
        idle_timeout_s=args.idle_timeout,
    )
    names = [name.strip() for word in args.models for name in word.split(",")]
    return ServeOptions(
        model=args.model,
        models=tuple(name for name in names if name),
        web=web,
        host=host,
        engine=EngineOptions(wire_memory=args.wire_memory),
        prefix_cache_bytes=args.prefix_cache_bytes,
        insecure=args.insecure,
    )


def _log_level(args: argparse.Namespace, *, quiet: bool) -> str:
    """Standard error is quiet with --json and --quiet, unless the user asked for a log in so many words."""
    if args.verbose:
        return "debug"
    asked = args.log_json or args.log_level != "info"
    return "error" if quiet and not asked else str(args.log_level)


def _keys(args: argparse.Namespace, settings: Settings) -> tuple[str, ...]:
    """Gather the keys of the command line, the file and the environment. Raises: UsageError."""
    keys = list(args.api_key)
    for key in keys:
        _check_key(key, "--api-key", _NEW_KEY)
    if args.api_key_file is not None:
        keys += keys_in(args.api_key_file)
    if settings.api_key is not None:
        _check_key(settings.api_key, "MLXK2_API_KEY", _NEW_KEY)
        keys.append(settings.api_key)
    return tuple(dict.fromkeys(keys))


def _check_key(key: str, source: str, hint: str) -> None:
    """Raise UsageError, which never shows the key, unless a header can carry it."""
    if not (key and key.isascii() and key.isprintable() and " " not in key):
        raise UsageError(f"{source}: an API key must be printable ASCII without blanks", hint=hint)


def keys_in(name: str) -> list[str]:
    """Return the keys in a file, at least one. Raises: UsageError."""
    try:
        lines = Path(name).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--api-key-file: {name} cannot be read: {error}") from error
    numbered = [(number, line.strip()) for number, line in enumerate(lines, 1)]
    keys = [(number, line) for number, line in numbered if line and not line.startswith("#")]
    if not keys:
        raise UsageError(f"--api-key-file: {name} holds no key", hint=_FILE_FORM)
    for number, key in keys:
        _check_key(key, f"--api-key-file: {name}, line {number}", _FILE_FORM)
    return [key for _, key in keys]


def _positive(text: str) -> int:
    return _whole(text, 1)


def _count(text: str) -> int:
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    if not (text.isdecimal() and text.isascii() and len(text) < 10 and int(text) >= least):
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number of at least {least}")
    return int(text)


def port(text: str) -> int:
    """Read a port. Raises: ArgumentTypeError."""
    if not (text.isdecimal() and text.isascii() and len(text) < 6 and int(text) < 65536):
        raise argparse.ArgumentTypeError(f"'{text}' is no port: 0 to 65535")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 10**8:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of seconds above 0")
    return seconds


def _size(text: str) -> int:
    found = _SIZE.fullmatch(text.strip())
    if found is None or len(text) > 20:
        raise argparse.ArgumentTypeError(f"'{text}' is no size: bytes, or 512MB, 2GiB")
    number, unit, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** _POWERS[unit.lower()])


def _some_bytes(text: str) -> int:
    size = _size(text)
    if size < 1:
        raise argparse.ArgumentTypeError(f"'{text}' would refuse every request: 1 byte or more, as in 32MiB")
    return size


def _host(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        pass
    if not _HOST.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"'{text}' is no host: a name or address alone, without scheme, port and path, as in models.example.org"
        )
    return text


def _origin(text: str) -> str:
    """Read an origin as browsers send it: in small letters, without a slash at its end."""
    origin = text[:-1] if text.endswith("/") else text
    if text != "*" and not (origin.isascii() and _ORIGIN.fullmatch(origin)):
        raise argparse.ArgumentTypeError(
            f"'{text}' is no origin: scheme and host, with its port if it has one, as in https://example.org; or *"
        )
    return origin.lower()
