"""The documents say what the code does: generated tables are up to date, links lead somewhere, commands exist."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from mlxk2.cli.command_line import CommandLine, HelpAsked, help_or_error
from mlxk2.cli.parser import parse
from mlxk2.cli.registry import BY_NAME
from mlxk2.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
# A line of a block, after a prompt and the path of the environment; and a quotation in a sentence.
IN_A_BLOCK = re.compile(r"^(?:\$ )?(?:\S*/)?(mlxk2 .*)$", re.MULTILINE)
QUOTED = re.compile(r"`(mlxk2 [^`\n]+)`")


def make_docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "scripts" / "make_docs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_tables_are_up_to_date() -> None:
    """The copy of the schema is compared in spec/test_spec_version_sync.py."""
    wanted = {path: text for path, text in make_docs().wanted_files().items() if path.suffix == ".md"}
    assert wanted
    assert [path.name for path, text in wanted.items() if path.read_text(encoding="utf-8") != text] == []


def test_every_link_between_documents_leads_somewhere() -> None:
    broken = []
    for path in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
            if not (path.parent / target).exists():
                broken.append(f"{path.relative_to(ROOT)}: {target}")
    assert not broken


def command_lines(text: str) -> Iterator[str]:
    """The command lines that a document shows: up to a pipe or comment, the placeholder COMMAND replaced by a verb.

    A verb alone in a sentence is a name, no command line; it gets `--help`.
    """
    for block in FENCE.findall(text):
        yield from (_first_command(line) for line in IN_A_BLOCK.findall(block))
    for line in map(_first_command, QUOTED.findall(text)):
        yield f"{line} --help" if len(line.split()) == 2 and not line.endswith("--version") else line


def _first_command(line: str) -> str:
    return re.split(r" \\?\| | # ", line)[0].replace("COMMAND", "list").strip()


def problem(line: str) -> str | None:
    """Say why the program would refuse a command line; it is parsed, not run."""
    words = CommandLine.split(shlex.split(line)[1:])
    try:
        if words.verb is None:
            help_or_error(words, alpha=True)
        elif words.verb not in BY_NAME:
            return f"{line}: no such command"
        else:
            parse(BY_NAME[words.verb], words)
    except UsageError as refused:
        return f"{line}: {refused.message}"
    except HelpAsked:
        pass
    return None


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_command_line_that_is_shown_is_one_that_works(path: Path) -> None:
    lines = command_lines(path.read_text(encoding="utf-8"))
    assert [found for found in map(problem, lines) if found] == []


def test_the_rule_above_sees_every_form_and_would_see_a_mistake() -> None:
    text = 'Try `mlxk2 lst`, `mlxk2 show` and\n```\n$ .venv/bin/mlxk2 run phi "a b" --nope  # note\nmlxk2 show | head\n```\n'
    lines = list(command_lines(text))
    assert lines == ['mlxk2 run phi "a b" --nope', "mlxk2 show", "mlxk2 lst --help", "mlxk2 show --help"]
    assert [problem(line) is None for line in lines] == [False, False, False, True]


def test_the_readme_begins_with_the_two_commands_that_matter() -> None:
    first = FENCE.search((ROOT / "README.md").read_text(encoding="utf-8"))
    assert first is not None and first.start() < 500
    assert re.findall(r"^make \w+", first[0], re.MULTILINE) == ["make demo", "make test"]


def test_every_marker_is_explained() -> None:
    declared = (ROOT / "pytest.ini").read_text(encoding="utf-8").split("markers =\n", 1)[1]
    names = set(re.findall(r"^    (\w+):", declared, re.MULTILINE))
    table = (
        (ROOT / "docs" / "TESTING.md")
        .read_text(encoding="utf-8")
        .split("| marker | meaning |", 1)[1]
        .split("\n\n", 1)[0]
    )
    first_cells = " ".join(row.split(" | ")[0] for row in table.splitlines())
    assert set(re.findall(r"`(\w+)`", first_cells)) == names
