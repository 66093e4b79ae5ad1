"""Which names of a folder stay out of a push: the built-in ones, and the lines of .hfignore. Touches no file.

A line is read as git reads one of .gitignore: `*`, `?`, `[...]` within a name, `**` across folders, a slash in front or in
the middle ties it to the folder's root, one at the end means folders only, `!` takes back what a line before it said.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import translate
from typing import NamedTuple, Optional, Union

from mlxk2.errors import PushFailed
from mlxk2.store.origin import SENTINEL_FILE
from mlxk2.text import one_line

IGNORE_FILE = ".hfignore"
DEFAULTS = (".git", ".DS_Store", ".gitignore", IGNORE_FILE, "__pycache__", ".venv", "venv", "*.pyc", ".env*/")
# The Hub takes nothing below the first two; the last one is our own note about where a clone came from.
NEVER = (".git", ".cache", SENTINEL_FILE)
MOST_LINES = 1000

_WILD = re.compile(r"[*?\[]")
_ESCAPED = re.compile(r"\\(.)")

Part = Optional["re.Pattern[str]"]  # None stands for any number of folders


class Rule(NamedTuple):
    """One line, understood. `literal` is the path it names where it has no wildcard, else None."""

    parts: tuple[Part, ...]
    negated: bool
    only_folders: bool
    literal: str | None


class IgnoreRules:
    """The rules of one push, in order; the last one that fits a path decides."""

    def __init__(self, lines: Iterable[str] = ()) -> None:
        # Of a line that is repeated the last one counts, as with git.
        unique = tuple(dict.fromkeys(reversed((*DEFAULTS, *map(_cleaned, lines)))))
        self._rules = tuple(rule for rule in map(_rule, reversed(unique)) if rule is not None)

    def ignores(self, path: str, *, is_folder: bool) -> bool:
        """Tell whether `path`, relative and with "/", is left out; its parent folders are not."""
        names = path.split("/")
        if any(name.lower() in NEVER for name in names):
            return True
        for rule in reversed(self._rules):
            if (is_folder or not rule.only_folders) and _fits(rule.parts, names):
                return not rule.negated
        return False

    def ignores_in_full(self, path: str) -> bool:
        """Tell whether a file, or one of the folders that it lies in, is left out."""
        names = path.split("/")
        folders = ("/".join(names[:end]) for end in range(1, len(names)))
        return any(self.ignores(folder, is_folder=True) for folder in folders) or self.ignores(path, is_folder=False)

    def releases(self, path: str) -> bool:
        """Tell whether a line `!path`, without wildcards, says that this very file is to be pushed."""
        names = path.split("/")
        last = next((rule for rule in reversed(self._rules) if _fits(rule.parts, names)), None)
        return last is not None and last.negated and last.literal == path


def _cleaned(line: str) -> str:
    """Take off line ends and trailing blanks, but for one behind a backslash."""
    text = line.rstrip("\r\n")
    bare = text.rstrip(" \t")
    return bare + " " if bare.endswith("\\") and len(bare) < len(text) else bare


def _rule(line: str) -> Rule | None:
    """Understand a line; None for a blank one and a comment."""
    if not line or line.startswith("#"):
        return None
    negated = line.startswith("!")
    text = line[1:] if negated else line
    only_folders = text.endswith("/")
    text = text.rstrip("/")
    anchored = "/" in text
    names = [name for name in text.split("/") if name]
    if not names:
        return None
    literal = None if _WILD.search(text) else _ESCAPED.sub(r"\1", "/".join(names))
    try:
        parts = tuple(None if name == "**" else re.compile(translate(_as_fnmatch(name))) for name in names)
    except re.error as error:
        raise PushFailed(f"{IGNORE_FILE} has a line that no file can fit: {one_line(line[:80])}") from error
    if parts[-1] is None:
        parts = (*parts, re.compile(""))  # what is in the folder, not the folder itself
    return Rule(parts if anchored else (None, *parts), negated, only_folders, literal)


def _as_fnmatch(name: str) -> str:
    """Spell git's escapes as fnmatch does."""
    name = name.replace("[^", "[!")
    return _ESCAPED.sub(lambda found: f"[{found[1]}]" if found[1] in "*?[" else found[1], name)


def _fits(parts: tuple[Part, ...], names: list[str]) -> bool:
    """Match names one by one, keeping all places in the pattern that are possible: linear in both."""
    places = _with_skips({0}, parts)
    for name in names:
        following: set[int] = set()
        for place in places:
            if place < len(parts):
                part: Union[re.Pattern[str], None] = parts[place]
                if part is None:
                    following.add(place)
                elif part.match(name):
                    following.add(place + 1)
        places = _with_skips(following, parts)
    return len(parts) in places


def _with_skips(places: set[int], parts: tuple[Part, ...]) -> set[int]:
    for place in sorted(places):
        while place < len(parts) and parts[place] is None:
            place += 1
            places.add(place)
    return places
