"""The README of a converted model: front matter that says MLX, and nothing that the source does not say."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

_REPO_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
_LICENSE = re.compile(r"[a-z0-9][a-z0-9._-]{0,40}")
_LANGUAGE = re.compile(r"[a-z]{2,3}")


@dataclass(frozen=True)
class ModelCard:
    """What is known about a model; everything may be missing."""

    title: str
    source: str
    base_model: str | None = None
    license: str | None = None
    languages: Sequence[str] = ()
    tags: Sequence[str] = ()

    def text(self) -> str:
        """Write the card as Markdown with YAML front matter."""
        lines = ["---", "library_name: mlx", "pipeline_tag: text-generation"]
        if self.license and _LICENSE.fullmatch(self.license):
            lines.append(f"license: {self.license}")
        if self.base_model and _REPO_ID.fullmatch(self.base_model):
            lines.append(f"base_model: {self.base_model}")
        # Codes such as "no" are words of YAML, so they are quoted.
        lines += _list("language", [json.dumps(code) for code in self.languages if _LANGUAGE.fullmatch(code)])
        lines += _list("tags", ["mlx", *(tag for tag in self.tags if _LICENSE.fullmatch(tag))])
        lines += ["---", "", f"# {_plain(self.title)}", "", f"Converted from {_plain(self.source)} by MLX Knife.", ""]
        return "\n".join(lines)


def _list(name: str, items: Sequence[str]) -> list[str]:
    return [f"{name}:", *(f"- {item}" for item in items)] if items else []


def _plain(text: str) -> str:
    """Keep what a heading may hold: one line without markup."""
    return " ".join(re.sub(r"[<>`|\[\]\x00-\x1f\x7f]", " ", text).split())[:200]
