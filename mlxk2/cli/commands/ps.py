"""The command `ps`: what a running server has loaded, and how busy it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlxk2.cli.present import Context, present

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare where the server is."""
    from mlxk2.cli import serve_flags

    parser.add_argument(
        "--host", default=serve_flags.DEFAULT_HOST, metavar="ADDRESS", help="where it listens (default 127.0.0.1)"
    )
    parser.add_argument(
        "--port", type=serve_flags.port, default=serve_flags.DEFAULT_PORT, metavar="N", help="(default 8000)"
    )
    parser.add_argument("--api-key", metavar="KEY", help="its key, where it demands one; MLXK2_API_KEY does the same")
    parser.add_argument(
        "--api-key-file", metavar="FILE", help="the same out of FILE, the first one in it; as serve takes it"
    )


def run(args: argparse.Namespace, context: Context) -> int:
    """Ask, and print the table."""
    from mlxk2.operations.ps import ServerAddress, ps

    return present(context, ps(ServerAddress(args.host, args.port, _key(args, context))))


def _key(args: argparse.Namespace, context: Context) -> str | None:
    """Return the key that was named most plainly. Raises: UsageError."""
    from mlxk2.cli import serve_flags

    if args.api_key:
        return str(args.api_key)
    if args.api_key_file is not None:
        return serve_flags.keys_in(args.api_key_file)[0]
    return context.settings.api_key
