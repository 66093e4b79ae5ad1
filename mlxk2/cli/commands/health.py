"""The command `health`."""

from __future__ import annotations

import argparse

from mlxk2.cli.present import Context, present, progress_sink, render
from mlxk2.driving import drain
from mlxk2.errors import UnhealthyModels
from mlxk2.operations.health import check_health


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what to check, and how thoroughly."""
    parser.add_argument("model", nargs="?", help="name, part of a name, name@revision, @hash or ./dir; none: all")
    parser.add_argument("--deep", action="store_true", help="also compare every file with the hash it is stored under")
    parser.add_argument("--strict", action="store_true", help="make an unhealthy model an error, exit code 1")
    parser.add_argument("--verbose", action="store_true", help="list each finding below its model")


def run(args: argparse.Namespace, context: Context) -> int:
    """Check the models; with --strict people see the report before the error."""
    steps = check_health(args.model, context.settings, deep=args.deep, strict=args.strict)
    try:
        with progress_sink(context) as sink:
            report = drain(steps, sink)
    except UnhealthyModels as unhealthy:
        if not context.json:
            render(context, unhealthy.detail)
        raise
    return present(context, report)
