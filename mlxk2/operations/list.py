"""List models: every one that is there, broken ones included."""

from __future__ import annotations

from typing import NamedTuple

from mlxk2.inspection.describe import ModelInfo, describe
from mlxk2.settings import Settings
from mlxk2.store.resolve import match_models


class ListResult(NamedTuple):
    models: tuple[ModelInfo, ...]
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody asks of a result


def list_models(pattern: str | None, settings: Settings) -> ListResult:
    """Describe the models whose name contains `pattern`, sorted by name. A missing cache is an empty list."""
    refs = match_models(pattern, settings)
    if len(refs) > 1:
        from mlxk2.inspection.many import describe_many

        models = describe_many(refs)
    else:
        models = tuple(describe(ref) for ref in refs)
    return ListResult(models, len(models))
