"""What the parts of a message say, in any API: text, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from mlxk2.server.errors import BadRequest

TEXT_PARTS = ("text", "input_text", "output_text")
# What a part that is text may have; some of it is what an answer had, and comes back with it.
_PART_FIELDS = frozenset({"type", "text", "refusal", "annotations", "logprobs", "citations", "cache_control"})


class Part(Protocol):
    """A part of a message, in any API."""

    @property
    def type(self) -> str:
        """What it is."""
        ...

    @property
    def text(self) -> str | None:
        """What it says, if it is text."""
        ...

    @property
    def model_fields_set(self) -> set[str]:
        """The names of what was given."""
        ...


def text_of(parts: str | Iterable[Part] | None, where: str) -> str:
    """Return the text of a content. Raises: BadRequest for anything else than text; nothing is ever fetched."""
    if parts is None or isinstance(parts, str):
        return parts or ""
    texts = []
    for number, part in enumerate(parts):
        if part.type == "refusal":
            texts.append(getattr(part, "refusal", None) or "")
        elif part.type not in TEXT_PARTS:
            raise BadRequest(
                f"{where}.{number}: parts of type {part.type[:40]!r} are not supported, only text is",
                param=f"{where}.{number}",
            )
        elif part.text is None:
            raise BadRequest(f"{where}.{number}.text: field required", param=f"{where}.{number}.text")
        else:
            texts.append(part.text)
        check_fields(part, _PART_FIELDS, f"{where}.{number}")
    return "".join(texts)


def check_fields(part: Part, known: Iterable[str], where: str) -> None:
    """Raises: BadRequest naming a field that a part of its type does not have."""
    foreign = sorted(part.model_fields_set.difference(known))
    if foreign:
        name = f"{where}.{foreign[0]}"
        raise BadRequest(f"{name}: what is of type {part.type[:40]!r} has no such field", param=name)
