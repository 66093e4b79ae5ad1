"""The command `clone`."""

from __future__ import annotations

import argparse

from mlxk2.cli.io import silence_libraries
from mlxk2.cli.present import Context, event_sink, present
from mlxk2.driving import drain
from mlxk2.operations.clone import CloneRequest, clone_model
from mlxk2.store.workspace import from_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare source and target."""
    parser.add_argument("model", help="org/model, or org/model@revision; a bare name is looked up in the cache first")
    parser.add_argument("target_dir", help="the folder to make; it must not exist, or be empty")
    parser.add_argument("--branch", metavar="REV", help="branch, tag or commit; the same as @revision")
    parser.add_argument("--no-health-check", action="store_true", help="copy what the cache has, sound or not")


def run(args: argparse.Namespace, context: Context) -> int:
    """Copy, with progress on stderr; with --quiet not even the result is told."""
    if context.json:
        silence_libraries(context.io)
    request = CloneRequest(
        text=args.model,
        target_text=args.target_dir,
        target=from_path(args.target_dir, context.settings.home).path,
        branch=args.branch,
        health_check=not args.no_health_check,
    )
    with event_sink(context) as sink:
        result = drain(clone_model(request, context.settings), sink)
    if args.quiet and not context.json:
        return 0
    return present(context, result)
