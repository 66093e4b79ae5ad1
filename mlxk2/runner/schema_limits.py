"""How large a JSON Schema may be, so that it is compiled in about a second. Knows JSON only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

# Measured with llguidance: optional properties cost their square, patterns of names the square of their number,
# what allOf joins along a chain of references the square of its length, patterns that must hold at once two to the n.
_MOST_OBJECTS = 10_000
_MOST = {"properties": 2000, "$ref": 1000, "allOf": 500, "patternProperties": 64}
_MOST_CHOICES = 40_000
_MOST_PATTERNS_AT_ONCE = 12
_MOST_PLACES = 20_000

_BY_NAME = ("properties", "patternProperties")
_WITHIN = ("allOf", "anyOf", "oneOf", "prefixItems", "items", "additionalProperties", "additionalItems", "contains")
_PATTERNS = ("pattern", "format")
_ANY_NAME = "*"

Path = tuple[str, ...]


def too_much(schema: Any) -> str | None:
    """Say which limit a schema exceeds; None where it keeps to all of them."""
    counted: Counter[str] = Counter()
    joints = []
    # A reference may lead anywhere, so that everything counts.
    waiting = [schema]
    while waiting:
        node = waiting.pop()
        waiting += [part for part in (node.values() if isinstance(node, Mapping) else node) if _is_container(part)]
        if not isinstance(node, Mapping):
            continue
        counted["objects"] += 1
        counted.update({key: _size(node.get(key)) for key in (*_MOST, "enum")})
        counted["patterns"] += _own_patterns(node)
        joints += [node] if _joins(node) else []
        if counted["objects"] > _MOST_OBJECTS:
            return f"it has more than {_MOST_OBJECTS} objects within it"
    for key, most in _MOST.items():
        if counted[key] > most:
            return f"it has more than {most} entries of {key}"
    if counted["enum"] > _MOST_CHOICES:
        return f"it has more than {_MOST_CHOICES} entries of enum"
    return _too_many_patterns(schema, joints) if counted["patterns"] > _MOST_PATTERNS_AT_ONCE else None


def _too_many_patterns(root: Any, joints: list[Any]) -> str | None:
    left = _MOST_PLACES
    for joint in joints:
        places: Counter[Path] = Counter()
        for path, node in _below(root, joint):
            if node is None:
                return "so many patterns need references that begin with #/ and lead somewhere"
            left -= 1
            if left < 0:
                return f"it joins more than {_MOST_PLACES} schemas by allOf"
            places[path] += _own_patterns(node)
        if max((_at_once(path, places) for path in +places), default=0) > _MOST_PATTERNS_AT_ONCE:
            return f"more than {_MOST_PATTERNS_AT_ONCE} patterns must hold at once"
    return None


def _below(root: Any, joint: Any) -> Iterator[tuple[Path, Any]]:
    """Yield a joint's schemas and for which part of the value each is; None for a reference that leads nowhere.

    References are followed once each.
    """
    followed: set[str] = set()
    waiting: list[tuple[Path, Any]] = [((), joint)]
    while waiting:
        path, node = waiting.pop()
        yield path, node
        if node is None:
            continue
        waiting += [((*path, step) if step else path, child) for step, child in _children(node)]
        reference = node.get("$ref")
        if isinstance(reference, str) and reference not in followed:
            followed.add(reference)
            target = _resolved(root, reference)
            waiting += [] if isinstance(target, bool) else [(path, target)]


def _at_once(path: Path, places: Mapping[Path, int]) -> int:
    """How many patterns a value at `path` may have to match."""

    def meets(other: Path) -> bool:
        return len(other) == len(path) and all(a == b or _ANY_NAME in (a, b) for a, b in zip(path, other))

    return sum(count for other, count in places.items() if meets(other))


def _own_patterns(node: Mapping[str, Any]) -> int:
    return sum(isinstance(node.get(key), str) for key in _PATTERNS)


def _joins(node: Mapping[str, Any]) -> bool:
    """Whether a value must fit several schemas at once."""
    return "allOf" in node or (len(node) > 1 and any(key in node for key in ("$ref", "anyOf", "oneOf")))


def _children(node: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the schemas right within a schema, and the name of the property that each is for; "" for the same value."""
    for key in _BY_NAME:
        found = node.get(key)
        for name, child in found.items() if isinstance(found, Mapping) else ():
            if isinstance(child, Mapping):
                yield (name if key == "properties" else _ANY_NAME), child
    for key in _WITHIN:
        found = node.get(key)
        for child in found if isinstance(found, list) else (found,):
            if isinstance(child, Mapping):
                yield ("" if key.endswith("Of") else _ANY_NAME), child


def _resolved(root: Any, reference: str) -> Any:
    """Return the schema that a reference leads to; None where that is none, or cannot be told."""
    if reference != "#" and not reference.startswith("#/"):
        return None
    found = root
    for part in unquote(reference).split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping):
            found = found.get(name)
        else:
            found = (
                found[int(name)] if isinstance(found, list) and name.isdecimal() and int(name) < len(found) else None
            )
    return found if isinstance(found, (Mapping, bool)) else None


def _is_container(value: Any) -> bool:
    return isinstance(value, (Mapping, list))


def _size(value: Any) -> int:
    return len(value) if _is_container(value) else int(isinstance(value, str))
