"""The command `serve`, also spelled `server`: answer requests over HTTP until a signal comes."""

from __future__ import annotations

import argparse
import signal
from typing import TYPE_CHECKING

from mlxk2.cli import serve_flags
from mlxk2.cli.present import Context, present
from mlxk2.errors import Interrupted, UsageError

if TYPE_CHECKING:
    from mlxk2.operations.serve import ServeResult

# Who sends these wants an end, not an error.
_ENDS = ("SIGTERM", "SIGHUP")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what is served, to whom, how much of it, and what is logged."""
    serve_flags.add_models(parser)
    serve_flags.add_access(parser)
    serve_flags.add_limits(parser)
    serve_flags.add_log(parser)


def run(args: argparse.Namespace, context: Context) -> int:
    """Check, listen, tell, and serve. Returns 0 after SIGTERM and SIGHUP, 130 after SIGINT."""
    if context.settings.ranks is not None:
        _check_alone(context)
    from mlxk2.operations import serve

    def tell(banner: ServeResult) -> None:
        present(context, banner)

    if args.reload and not (args.quiet or context.json):
        context.io.stderr.write("--reload does nothing: there is no code to reload here\n")
    options = serve_flags.options_of(args, context.settings, as_json=context.json)
    try:
        number = serve.run(serve.prepare(options, context.settings), tell)
    except KeyboardInterrupt as early:
        # Before the server's own handlers were in place.
        if early.args and early.args[0] in _ENDS:
            return 0
        raise
    # The banner was the one answer; how it ended is said by the exit code alone.
    return Interrupted.exit_code if number == signal.SIGINT else 0


def _check_alone(context: Context) -> None:
    """Do nothing where a launcher started this process alone. Raises: UsageError."""
    from mlxk2.operations.ranks import group_of

    if group_of(context.settings) is not None:
        raise UsageError(
            "a server works on one machine: it cannot be one of several ranks",
            hint="start it without mlx.launch; mlxk2 run can use several machines",
        )
