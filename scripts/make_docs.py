"""Write the tables of the documents that follow from the code, and the documents' copy of the schema.

Usage: make_docs.py [--check]. A table stands between `<!-- generated: NAME -->` and `<!-- end -->`. With --check
nothing is written; the exit code is 1 if a document differs from the code.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Callable

from mlxk2 import errors
from mlxk2.cli.chat.commands import usages
from mlxk2.cli.entry import CLOSED_PIPE
from mlxk2.cli.parser import parser_of
from mlxk2.cli.registry import BY_NAME, VERBS
from mlxk2.errors import MlxkError
from mlxk2.settings import ENVIRONMENT
from mlxk2.spec import SCHEMA_PATH

ROOT = Path(__file__).resolve().parent.parent
SCHEMA_COPY = "docs/json-api-schema.json"
BLOCK = re.compile(r"(?P<open><!-- generated: (?P<name>[^>]+?) -->\n).*?(?P<close><!-- end -->)", re.DOTALL)
EXIT_CODES = {
    0: "`status: success`",
    1: "`status: error`",
    2: "usage: the command line itself is wrong",
    130: "interrupted (Ctrl-C, SIGTERM, SIGHUP)",
    CLOSED_PIPE: "the reader of the output has gone, as in `mlxk2 list \\| head -1`; nothing is printed",
}
EVERY_COMMAND = ("--json", "--quiet", "-h, --help")


def table(headers: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Lay out a Markdown table."""
    lines = ["| " + " | ".join(headers) + " |", "|" + "|".join("---" for _ in headers) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def commands(_: str) -> str:
    """The verbs and what each is for."""
    return table(("command", "what it does"), [(f"`mlxk2 {verb.name}`", verb.summary) for verb in VERBS])


def flags(verb: str) -> str:
    """The arguments of one verb; `all` gives those that every verb has."""
    actions = parser_of(BY_NAME["version" if verb == "all" else verb])._actions
    wanted = [a for a in actions if (_spelling(a) in EVERY_COMMAND) == (verb == "all")]
    rows = [
        (f"`{_spelling(a)}{_value(a)}`", _default(a), _cell(a.help or ""))
        for a in wanted
        if a.help != argparse.SUPPRESS
    ]
    return table(("argument", "default", "effect"), rows) if rows else "No arguments of its own.\n"


def _spelling(action: argparse.Action) -> str:
    if not action.option_strings:
        name = str(action.metavar or action.dest)
        return f"[{name}]" if action.nargs in ("?", "*") else name
    return ", ".join(action.option_strings)


def _value(action: argparse.Action) -> str:
    if not action.option_strings or action.nargs == 0:
        return ""
    if action.choices:
        return " " + "\\|".join(str(choice) for choice in action.choices)
    return f" {action.metavar or action.dest.upper()}"


def _default(action: argparse.Action) -> str:
    shown = action.default not in (None, False, argparse.SUPPRESS, []) and action.nargs != 0
    return str(action.default) if shown else ""


def _cell(text: str) -> str:
    return " ".join(text.replace("%%", "%").split()).replace("|", "\\|")


def error_types(_: str) -> str:
    """Every value of `error.type` in the answer of a command."""
    rows = []
    for kind in sorted(_kinds(), key=lambda kind: (kind.exit_code, kind.type.lower())):
        meaning = (kind.__doc__ or "").split("\n", 1)[0]
        rows.append((f"`{kind.type}`", str(kind.exit_code), "yes" if kind.retryable else "", _cell(meaning)))
    return table(("`error.type`", "exit code", "retryable", "meaning"), rows)


def _kinds() -> list[type[MlxkError]]:
    """What commands may end with: the server has kinds of its own, whether it is imported or not."""
    return [kind for kind in MlxkError.__subclasses__() if kind.__module__.startswith(errors.__name__)]


def exit_codes(_: str) -> str:
    """Every exit code; the error tree and this table must know the same ones."""
    used = {0, CLOSED_PIPE, *(kind.exit_code for kind in _kinds())}
    if used != set(EXIT_CODES):
        raise SystemExit(f"exit codes {sorted(used)} are in use, scripts/make_docs.py explains {sorted(EXIT_CODES)}")
    return table(("code", "meaning"), [(str(code), EXIT_CODES[code]) for code in sorted(EXIT_CODES)])


def environment(_: str) -> str:
    """Every environment variable that is read."""
    return table(("variable", "effect"), [(f"`{name}`", _cell(effect)) for name, effect in ENVIRONMENT.items()])


def chat_commands(_: str) -> str:
    """The slash commands of a chat."""
    return table(("command", "what it does"), [(f"`{_cell(usage)}`", _cell(effect)) for usage, effect in usages()])


GENERATORS: dict[str, Callable[[str], str]] = {
    "commands": commands,
    "flags": flags,
    "errors": error_types,
    "exit-codes": exit_codes,
    "environment": environment,
    "chat-commands": chat_commands,
}


def regenerated(text: str) -> str:
    """Give `text` with every generated block as the code has it now."""

    def block(found: re.Match[str]) -> str:
        name, _, argument = found["name"].partition(" ")
        return found["open"] + GENERATORS[name](argument) + found["close"]

    return BLOCK.sub(block, text)


def wanted_files() -> dict[Path, str]:
    """Give every document that this script has a hand in, as it should be."""
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    files = {path: regenerated(path.read_text(encoding="utf-8")) for path in documents if path.exists()}
    files[ROOT / SCHEMA_COPY] = SCHEMA_PATH.read_text(encoding="utf-8")
    return files


def main(argv: list[str]) -> int:
    stale = [
        (path, text)
        for path, text in wanted_files().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    for path, text in stale:
        name = path.relative_to(ROOT)
        if "--check" in argv:
            print(f"differs from the code: {name} (run `make docs`)", file=sys.stderr)
        else:
            path.write_text(text, encoding="utf-8")
            print(f"written: {name}")
    return 1 if stale and "--check" in argv else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
