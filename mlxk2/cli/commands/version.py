"""The command `version`, also spelled `--version`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlxk2.cli.present import Context, present
from mlxk2.operations.version import version

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: `version` has no flags of its own."""


def run(args: argparse.Namespace, context: Context) -> int:
    """Print the versions."""
    return present(context, version())
