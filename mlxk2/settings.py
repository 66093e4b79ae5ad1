"""Every environment variable that MLX Knife knows, read once at start into one frozen value."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

# name -> effect; the table in the documents is made from this.
ENVIRONMENT: dict[str, str] = {
    "HF_HOME": "cache root, models in `$HF_HOME/hub`; default `~/.cache/huggingface`; empty = unset",
    "HF_HUB_CACHE": "the hub folder itself; wins over `HF_HOME`",
    "XDG_CACHE_HOME": "used as `hf` uses it: the cache root is `$XDG_CACHE_HOME/huggingface` where `HF_HOME` is not set",
    "MLXK2_STRICT_TEST_DELETE": "`1`: `rm` refuses unless the cache holds the test sentinel",
    "MLXK2_WORKSPACE_HOME": "folder whose children are workspaces, found by name",
    "MLXK2_NO_FAST_START": "`1`: import mlx-lm with everything it depends on; slower, same tokens",
    "MLXK2_DEBUG": "tracebacks of unexpected errors on stderr",
    "NO_COLOR": "no colour, whatever the stream",
    "FORCE_COLOR": "colour, even where the stream is no terminal",
    "COLUMNS": "width of tables in characters",
}


class Settings(NamedTuple):
    """The environment, understood. Paths are expanded but need not exist."""

    hub_cache: Path
    home: Path
    workspace_home: Path | None = None
    strict_test_delete: bool = False
    fast_start: bool = True
    debug: bool = False
    no_color: bool = False
    force_color: bool = False
    columns: int | None = None

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Read `environ`; an empty value counts as unset."""
        home = Path(environ.get("HOME") or os.path.expanduser("~"))

        def folder(name: str) -> Path | None:
            value = environ.get(name)
            return _expand(value, home) if value else None

        cache_home = folder("XDG_CACHE_HOME") or home / ".cache"
        hf_home = folder("HF_HOME") or cache_home / "huggingface"
        return cls(
            hub_cache=folder("HF_HUB_CACHE") or hf_home / "hub",
            home=home,
            workspace_home=folder("MLXK2_WORKSPACE_HOME"),
            strict_test_delete=environ.get("MLXK2_STRICT_TEST_DELETE") == "1",
            fast_start=not _is_on(environ.get("MLXK2_NO_FAST_START")),
            debug=_is_on(environ.get("MLXK2_DEBUG")),
            no_color=bool(environ.get("NO_COLOR")),
            force_color=_is_on(environ.get("FORCE_COLOR")),
            columns=_positive(environ.get("COLUMNS")),
        )


def _is_on(value: str | None) -> bool:
    """Anything but unset, empty, "0" and "false" switches a feature on."""
    return bool(value) and value.lower() not in ("0", "false")  # type: ignore[union-attr]


def _positive(value: str | None) -> int | None:
    usable = value is not None and value.isdecimal() and len(value) < 6 and int(value) > 0
    return int(value or 0) if usable else None


def _expand(value: str, home: Path) -> Path:
    if value == "~" or value.startswith("~/"):
        return home / value[2:]
    # An unknown user's home stays as it is written, as the hub client reads it.
    return Path(os.path.expanduser(value))
