"""The command `push`."""

from __future__ import annotations

import argparse

from mlxk2.cli.io import silence_libraries
from mlxk2.cli.present import Context, event_sink, present
from mlxk2.driving import drain
from mlxk2.operations.push import push_folder
from mlxk2.operations.push_plan import PushRequest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the folder, where it goes, and how careful to be."""
    parser.add_argument("local_dir", help="the folder to publish: ./my-model")
    parser.add_argument("repo_id", metavar="org/model", help="the repository on the Hub")
    parser.add_argument(
        "--private", action="store_true", help="required: the repository is private, a public one is refused"
    )
    parser.add_argument("--create", action="store_true", help="make the repository, or the branch, if it is not there")
    parser.add_argument("--branch", default="main", help="the branch to commit to (default main)")
    parser.add_argument("--commit", default="mlx-knife push", metavar="MESSAGE", help="the commit's message")
    parser.add_argument(
        "--check-only", action="store_true", help="check the folder only: no token, no network, no upload"
    )
    parser.add_argument("--dry-run", action="store_true", help="tell what would change on the Hub, and change nothing")
    parser.add_argument("--strict", action="store_true", help="refuse a folder with any error or warning")
    parser.add_argument("--verbose", action="store_true", help="show the address, and with --dry-run the files")


def run(args: argparse.Namespace, context: Context) -> int:
    """Publish, with warnings and progress on stderr."""
    if context.json:
        silence_libraries(context.io)
    request = PushRequest(
        folder=args.local_dir,
        name=args.repo_id,
        branch=args.branch,
        message=args.commit,
        private=args.private,
        create=args.create,
        check_only=args.check_only,
        dry_run=args.dry_run,
        strict=args.strict,
    )
    with event_sink(context) as sink:
        result = drain(push_folder(request, context.settings), sink)
    return present(context, result)
