"""The front matter of a README: the few plain forms that model cards use, without a YAML library."""

from __future__ import annotations

from typing import NamedTuple


class FrontMatter(NamedTuple):
    """What a model card says about its model, in lower case."""

    library_name: str = ""
    pipeline_tag: str = ""
    tags: frozenset[str] = frozenset()


_NOTHING = FrontMatter()


def parse_front_matter(raw: bytes) -> FrontMatter:
    """Read `key: value`, `key: [a, b]` and `- item` lines between two lines of dashes; anything else is skipped."""
    if raw.startswith(b"\xef\xbb\xbf"):
        raw = raw[3:]
    if not raw.startswith(b"---"):
        return _NOTHING
    values: dict[str, list[str]] = {}
    items: list[str] = []
    for line in raw.decode("utf-8", "replace").lower().splitlines()[1:]:
        if line.startswith(("---", "...")):
            break
        text = line.strip()
        if text.startswith("- ") or text == "-":
            items.append(_plain(text[1:]))
        elif line[:1] not in {" ", "\t", "#", ""}:
            key, _, value = line.partition(":")
            items = values[key.strip()] = _values(value)
    return FrontMatter(
        _first(values, "library_name"), _first(values, "pipeline_tag"), frozenset(values.get("tags", ()))
    )


def _values(text: str) -> list[str]:
    text = text.strip()
    if text.startswith("["):
        return [_plain(part) for part in text.strip("[]").split(",") if part.strip()]
    value = _plain(text)
    return [value] if value else []


def _plain(text: str) -> str:
    text = text.split(" #", 1)[0].strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _first(values: dict[str, list[str]], key: str) -> str:
    found = values.get(key)
    return found[0] if found else ""
