"""The command `schema`."""

from __future__ import annotations

import argparse

from mlxk2.cli.present import Context, present
from mlxk2.operations.schema import answer_schema


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command whose answer is meant."""
    parser.add_argument("command", nargs="?", help="the command whose answer to describe; none: all answers")


def run(args: argparse.Namespace, context: Context) -> int:
    """Print the schema."""
    return present(context, answer_schema(args.command))
