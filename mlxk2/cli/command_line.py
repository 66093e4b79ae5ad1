"""argv, split at the verb. Knows no flags but the ones that every command has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mlxk2.errors import UsageError

PROGRAM = "mlxk2"
_GLOBAL_FLAGS = ("--json", "--quiet")
_HELP_FLAGS = ("-h", "--help")


class HelpAsked(Exception):
    """The user asked for help; `text` is it."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class CommandLine(NamedTuple):
    """The verb (None where there is none), the other words, and whether --json stands anywhere."""

    verb: str | None
    rest: tuple[str, ...]
    json: bool

    @property
    def stream_json(self) -> bool:
        """Whether the answer is the last of many lines, each a JSON document."""
        return "--stream-json" in self.rest

    @property
    def typed(self) -> str:
        """What to type for the same again."""
        from shlex import join

        return join((PROGRAM, *filter(None, (self.verb,)), *self.rest))

    @property
    def quiet(self) -> bool:
        return "--quiet" in self.rest

    @classmethod
    def split(cls, argv: Sequence[str]) -> CommandLine:
        """Find the verb: the first word that is no option; `--version` alone means the verb `version`."""
        place = next((i for i, word in enumerate(argv) if not word.startswith("-")), None)
        as_json = "--json" in argv
        if place is not None:
            return cls(argv[place], (*argv[:place], *argv[place + 1 :]), as_json)
        if "--version" in argv:
            return cls("version", tuple(word for word in argv if word != "--version"), as_json)
        return cls(None, tuple(argv), as_json)

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing to parse: no word but the flags of every command."""
        return all(word in _GLOBAL_FLAGS for word in self.rest)


def help_or_error(line: CommandLine, *, alpha: bool) -> None:
    """Answer an argv without a verb. Raises: HelpAsked, or UsageError naming the first unknown option."""
    for word in line.rest:
        if word not in (*_GLOBAL_FLAGS, *_HELP_FLAGS):
            raise UsageError(f"unknown option {word}", hint=f"{PROGRAM} --help")
    raise HelpAsked(usage(alpha=alpha))


def usage(*, alpha: bool) -> str:
    """The help of the program itself."""
    from mlxk2.cli.registry import available

    verbs = available(alpha=alpha)
    width = max(len(verb.name) for verb in verbs)
    lines = [f"  {verb.name:<{width}}  {verb.summary}" for verb in verbs]
    return (
        f"usage: {PROGRAM} COMMAND [ARGUMENTS] [--json] [--quiet]\n\n"
        "Find, fetch, check, convert, run and remove MLX language models in the Hugging Face cache.\n\n"
        "commands:\n" + "\n".join(lines) + "\n\n"
        f"{PROGRAM} COMMAND --help explains a command; {PROGRAM} --version prints the version.\n"
    )
