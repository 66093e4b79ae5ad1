"""JSON that every reader understands alike: no twins, no NaN, no halves of characters, not nested without end."""

from __future__ import annotations

import json
from typing import Any

from mlxk2.runner.json_answer import finite, no_constant

DEEPEST = 64


class NotAlike(ValueError):
    """Says what a text is or has, in words that go on where its name stands before them."""


def parse(text: str) -> Any:
    """Return the value. Raises: NotAlike where it is no JSON, or none that every reader understands alike."""
    try:
        value = json.loads(text, parse_constant=no_constant, parse_float=finite, object_pairs_hook=_without_twins)
        _check_depth(value)
        if "\\" in text:
            # Escapes can write half of a character that needs two.
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except NotAlike:
        raise
    except RecursionError:
        raise NotAlike(f"is nested more than {DEEPEST} levels deep") from None
    except UnicodeEncodeError:
        raise NotAlike("has escapes that are no characters (lone surrogates)") from None
    except ValueError as error:
        raise NotAlike(f"is no JSON: {str(error)[:200]}") from None
    return value


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Which of two values counts is up to the reader; so none does."""
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise NotAlike(f"has an object with two values for {name[:80]!r}")
            seen.add(name)
    return made


def _check_depth(data: Any) -> None:
    level = [data]
    for _ in range(DEEPEST):
        level = [part for value in level for part in _parts(value)]
        if not level:
            return
    raise RecursionError


def _parts(value: Any) -> list[Any]:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [child for child in children if isinstance(child, (dict, list))]
