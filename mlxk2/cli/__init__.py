"""SPEAKS argv: the command line, its streams and its exit codes."""

from mlxk2.cli.entry import main

__all__ = ["main"]
