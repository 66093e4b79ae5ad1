"""The command `list`."""

from __future__ import annotations

import argparse

from mlxk2.cli.present import Context, present
from mlxk2.operations.list import list_models


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the pattern, and the flags that change the human table only."""
    parser.add_argument("pattern", nargs="?", help="part of the name, in any case; or a folder: ./dir")
    parser.add_argument("--all", action="store_true", help="show models of every framework and type")
    parser.add_argument("--health", action="store_true", help="add a column that tells which models are sound")
    parser.add_argument("--verbose", action="store_true", help="show all MLX models, with full names")


def run(args: argparse.Namespace, context: Context) -> int:
    """List the models."""
    return present(context, list_models(args.pattern, context.settings))
