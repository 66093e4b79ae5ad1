"""List models: every one that is there, broken ones included."""

from __future__ import annotations

from dataclasses import dataclass

from mlxk2.inspection.describe import ModelInfo, describe
from mlxk2.settings import Settings
from mlxk2.store.resolve import match_models


@dataclass(frozen=True)
class ListResult:
    models: tuple[ModelInfo, ...]
    count: int


def list_models(pattern: str | None, settings: Settings) -> ListResult:
    """Describe the models whose name contains `pattern`, sorted by name. A missing cache is an empty list."""
    models = tuple(describe(ref) for ref in match_models(pattern, settings))
    return ListResult(models, len(models))
