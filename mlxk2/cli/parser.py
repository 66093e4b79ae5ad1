"""From the words after a verb to its arguments. Knows flags, not operations."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from mlxk2.cli.command_line import PROGRAM, CommandLine, HelpAsked
from mlxk2.cli.registry import Verb
from mlxk2.errors import UsageError

HELP_WIDTH = 110


def _formatter(prog: str) -> argparse.HelpFormatter:
    # With no width argparse imports shutil, and reads the environment, for every argument that is declared.
    return argparse.HelpFormatter(prog, width=HELP_WIDTH)


class Parser(argparse.ArgumentParser):
    """argparse that raises instead of printing and exiting."""

    def error(self, message: str) -> NoReturn:
        # Intermixed arguments are all called required, those too of which there may be none.
        for action in self._actions:
            if action.nargs == "*" and "arguments are required" in message:
                message = message.replace(f", {action.dest}", "")
        raise UsageError(message, hint=f"{self.prog} --help")


class _Help(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        raise HelpAsked(parser.format_help())


def parser_of(verb: Verb) -> Parser:
    """Build the parser of one verb: its own flags and those that every verb has."""
    text = verb.summary[0].upper() + verb.summary[1:] + "."
    options: dict[str, Any] = {
        "description": text,
        "add_help": False,
        "allow_abbrev": False,
        "formatter_class": _formatter,
    }
    parser = Parser(prog=f"{PROGRAM} {verb.name}", **options)
    verb.load().add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout")
    parser.add_argument("--quiet", action="store_true", help="no progress, no notes on stderr")
    parser.add_argument("-h", "--help", action=_Help, nargs=0, help="show this help")
    return parser


def parse(verb: Verb, line: CommandLine) -> argparse.Namespace:
    """Parse the words after the verb. Raises: UsageError, HelpAsked."""
    parser = parser_of(verb)
    words = list(line.rest)
    return parser.parse_intermixed_args(words) if verb.intermixed else parser.parse_args(words)
