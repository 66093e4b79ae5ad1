"""The verbs: name, one line of help, and the module that speaks it, which is imported on dispatch only."""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple


class Verb(NamedTuple):
    """A command. Its module has `add_arguments(parser)` and `run(args, context) -> exit code`.

    `needs_parser` is False where there is nothing but the flags of every command; with `intermixed` the arguments
    may stand between flags. An `alpha` command exists only where the user switched those on. `alias` is another name.
    """

    name: str
    summary: str
    needs_parser: bool = True
    intermixed: bool = False
    alpha: bool = False
    alias: str | None = None

    def load(self) -> Any:
        """Import the module of this verb."""
        return import_module(f"mlxk2.cli.commands.{self.name}")


VERBS: tuple[Verb, ...] = (
    Verb("list", "list the models in the cache"),
    Verb("show", "show one model: metadata, files, configuration, memory"),
    Verb("health", "check that models are complete and sound"),
    Verb("pull", "fetch a model from the Hub into the cache; resumes, verifies, repairs"),
    Verb("run", "ask a model, and print its answer as it comes", intermixed=True),
    Verb("serve", "answer requests over HTTP, as OpenAI's and Anthropic's APIs do", alias="server"),
    Verb("ps", "show what a running server has loaded, and how busy it is"),
    Verb("rm", "remove a model, or one revision of it, from the cache"),
    Verb("convert", "turn a GGUF file or a model folder into an MLX model folder"),
    Verb("clone", "copy a model out of the cache, or the Hub, into a folder of your own", alpha=True),
    Verb("push", "upload a folder to the Hub as one commit", alpha=True),
    Verb("schema", "print the JSON Schema of the answers"),
    Verb("version", "print the version", needs_parser=False),
)

BY_NAME: dict[str, Verb] = {name: verb for verb in VERBS for name in (verb.name, verb.alias) if name is not None}


def available(*, alpha: bool) -> tuple[Verb, ...]:
    """The verbs that exist for this user."""
    return tuple(verb for verb in VERBS if alpha or not verb.alpha)
