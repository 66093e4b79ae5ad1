"""Files of prompts and of answers, for tests of batches."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from support.call import KEYS, VALIDATOR, Result, call

# The stand-ins for mlx have no layers.
REAL_MLX = importlib.util.find_spec("mlx.nn") is not None


def batches() -> bool:
    """Tell whether the mlx-lm at hand decodes several sequences together; on Python 3.9 there is none that does."""
    return REAL_MLX and tuple(map(int, re.findall(r"\d+", version("mlx-lm"))[:3])) >= (0, 31, 2)


needs_batches = pytest.mark.skipif(not batches(), reason="this mlx-lm answers one after the other")


def write_prompts(path: Path, prompts: Mapping[Any, str]) -> Path:
    """Write a line for each id and prompt."""
    return write_lines(path, [{"id": key, "prompt": prompt} for key, prompt in prompts.items()])


def write_lines(path: Path, lines: Iterable[Any]) -> Path:
    """Write JSON values, one a line."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def envelopes(path: Path) -> list[dict[str, Any]]:
    """Read a file of answers, and hold every line against the schema."""
    text = path.read_text(encoding="utf-8")
    assert text == "" or text.endswith("\n")
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        assert list(line) == KEYS and line["command"] == "run"
        problems = [problem.message for problem in VALIDATOR.iter_errors(line)]
        assert not problems, problems
    return lines


def by_id(path: Path) -> dict[Any, dict[str, Any]]:
    """Read a file of answers; no id may be there twice."""
    found: dict[Any, dict[str, Any]] = {}
    for line in envelopes(path):
        part = line["data"] or line["error"]
        assert part["id"] not in found, f"{part['id']} is there twice"
        found[part["id"]] = part
    return found


class Batches:
    """Runs batches of one model in one folder: prompts.jsonl and answers.jsonl."""

    def __init__(self, model: Path, folder: Path, env: Mapping[str, str]) -> None:
        self.model = model
        self.source = folder / "prompts.jsonl"
        self.target = folder / "answers.jsonl"
        self.env = env

    def command(self, *flags: str) -> list[str]:
        """The words after the program's name."""
        return ["run", str(self.model), "--input", str(self.source), "--output", str(self.target), *flags]

    def __call__(self, *flags: str, **options: Any) -> Result:
        """Run the batch."""
        return call(*self.command(*flags), env=self.env, **options)

    def single(self, prompt: str, *flags: str) -> Any:
        """Ask one prompt alone and return the payload."""
        return call("run", str(self.model), prompt, "--json", *flags, env=self.env).data

    @property
    def answers(self) -> dict[Any, dict[str, Any]]:
        """The answers so far."""
        return by_id(self.target)
