"""The command `pull`."""

from __future__ import annotations

import argparse

from mlxk2.cli.io import silence_libraries
from mlxk2.cli.present import Context, event_sink, present
from mlxk2.driving import drain
from mlxk2.operations.pull import pull_model
from mlxk2.operations.pull_target import PullRequest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the model and which part of it."""
    parser.add_argument("model", help="org/model, or org/model@revision; a bare name means mlx-community/name")
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit")
    parser.add_argument(
        "--dry-run", action="store_true", help="tell what would be fetched, and whether it will run here"
    )
    parser.add_argument(
        "--include", action="append", default=[], metavar="PATTERN", help="only files like this; may be repeated"
    )
    parser.add_argument(
        "--exclude", action="append", default=[], metavar="PATTERN", help="no files like this; may be repeated"
    )
    parser.add_argument(
        "--force", action="store_true", help="ask the Hub, and check every byte that is there, even of a sound model"
    )
    parser.add_argument("--stream-json", action="store_true", help="print one JSON document a line, the answer last")


def run(args: argparse.Namespace, context: Context) -> int:
    """Fetch, with progress on stderr."""
    if context.json:
        silence_libraries(context.io)
    request = PullRequest(
        text=args.model,
        revision=args.revision,
        include=tuple(args.include),
        exclude=tuple(args.exclude),
        force=args.force,
        dry_run=args.dry_run,
    )
    with event_sink(context) as sink:
        result = drain(pull_model(request, context.settings), sink)
    return present(context, result)
