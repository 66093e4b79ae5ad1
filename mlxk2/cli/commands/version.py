"""The command `version`, also spelled `--version`."""

from __future__ import annotations

import argparse

from mlxk2.cli.present import Context, present
from mlxk2.operations.version import version


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: `version` has no flags of its own."""


def run(args: argparse.Namespace, context: Context) -> int:
    """Print the versions."""
    return present(context, version())
