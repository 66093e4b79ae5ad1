"""One model that was found: what every layer above receives."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

CACHE = "cache"
WORKSPACE = "workspace"


class ModelRef(NamedTuple):
    """A model's folder.

    `name` is what users type and see; `path` is the folder that should hold `config.json` (a snapshot, or a
    workspace); `revision` is the snapshot's commit; `problem` says why there is nothing at `path`, if that is so.
    """

    name: str
    path: Path
    revision: str | None
    kind: str
    problem: str | None = None

    @property
    def own_name(self) -> str:
        """The model's name without its organisation, e.g. "Phi-3-mini" of "mlx-community/Phi-3-mini"."""
        return self.path.resolve().name if self.kind == WORKSPACE else self.name.rsplit("/", 1)[-1]
