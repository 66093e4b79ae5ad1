"""What every benchmark stands on: the test kit on the path (import this first), and the environment of its children."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests_2.0"))


def child_environ(**more: str) -> dict[str, str]:
    """Give this process's environment and `more`, for a child that starts as an installed program does.

    That has its byte code on disk; a shell with PYTHONDONTWRITEBYTECODE would make each start compile it anew.
    """
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**inherited, **more}


def real_model() -> Path:
    """Return the folder of the real chat model in float32, fetched and converted where that was not done yet."""
    from support.smollm2 import smollm2

    return smollm2("f32", any_blas=True)


def with_template(model: Path, template: str) -> Path:
    """Give a model's folder another chat template, and return the folder."""
    path = model / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": template}))
    return model
