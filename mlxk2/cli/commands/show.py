"""The command `show`."""

from __future__ import annotations

import argparse

from mlxk2.cli.present import Context, present, progress_sink
from mlxk2.driving import drain
from mlxk2.operations.show import show_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the model and the part of it to show."""
    parser.add_argument("model", help="name, part of a name, name@revision, or a folder: ./dir")
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--files", action="store_true", help="list the files instead of the metadata")
    part.add_argument("--config", action="store_true", help="print config.json instead of the metadata")
    parser.add_argument("--path", action="store_true", help="also tell the folder that the model lies in")


def run(args: argparse.Namespace, context: Context) -> int:
    """Show the model."""
    part = "files" if args.files else "config" if args.config else "metadata"
    steps = show_model(args.model, context.settings, part=part, with_path=args.path)
    with progress_sink(context) as sink:
        shown = drain(steps, sink)
    return present(context, shown)
