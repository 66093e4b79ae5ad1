"""From the words after a verb to its arguments. Knows flags, not operations."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from mlxk2.cli.command_line import PROGRAM, CommandLine, HelpAsked
from mlxk2.cli.registry import Verb
from mlxk2.errors import UsageError


class Parser(argparse.ArgumentParser):
    """argparse that raises instead of printing and exiting. `intermixed`: positionals may stand between flags."""

    intermixed = False

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"{self.prog} --help")


class _Help(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        raise HelpAsked(parser.format_help())


def parser_of(verb: Verb) -> Parser:
    """Build the parser of one verb: its own flags and those that every verb has."""
    text = verb.summary[0].upper() + verb.summary[1:] + "."
    parser = Parser(prog=f"{PROGRAM} {verb.name}", description=text, add_help=False, allow_abbrev=False)
    verb.load().add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout")
    parser.add_argument("--quiet", action="store_true", help="no progress, no notes on stderr")
    parser.add_argument("-h", "--help", action=_Help, nargs=0, help="show this help")
    return parser


def parse(verb: Verb, line: CommandLine) -> argparse.Namespace:
    """Parse the words after the verb. Raises: UsageError, HelpAsked."""
    parser = parser_of(verb)
    words = list(line.rest)
    return parser.parse_intermixed_args(words) if parser.intermixed else parser.parse_args(words)
