"""Check models: are they complete and sound? With `deep`, also every byte against the hash that it is stored under.

A cloned folder is also held against what was cloned; that it was edited is told, and is nothing unhealthy.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from mlxk2.envelope import ABSENT, to_payload
from mlxk2.errors import AmbiguousMatch, HealthCheckFailed, PermissionDenied, UnhealthyModels
from mlxk2.events import Event
from mlxk2.inspection.content_hash import check_content
from mlxk2.inspection.describe import Inspection, inspect_model
from mlxk2.inspection.integrity import Finding, sound_reason
from mlxk2.inspection.origin import OriginState, check_origin
from mlxk2.settings import Settings
from mlxk2.store.resolve import models_to_check


@dataclass(frozen=True)
class ModelHealth:
    name: str
    status: str
    reason: str
    findings: tuple[Finding, ...]
    origin: OriginState | Any = ABSENT


@dataclass(frozen=True)
class HealthSummary:
    total: int
    healthy_count: int
    unhealthy_count: int


@dataclass(frozen=True)
class HealthResult:
    healthy: tuple[ModelHealth, ...]
    unhealthy: tuple[ModelHealth, ...]
    summary: HealthSummary


def check_health(
    text: str | None, settings: Settings, *, deep: bool = False, strict: bool = False
) -> Generator[Event, None, HealthResult]:
    """Check all models, or those that `text` means.

    Raises: AmbiguousMatch (a revision asked of several models), HealthCheckFailed (no access), UnhealthyModels
    (`strict`; its detail is the report).
    """
    try:
        refs = models_to_check(text, settings)
    except AmbiguousMatch as several:
        several.data = _result([])
        raise
    except PermissionDenied as refused:
        raise HealthCheckFailed(refused.message, hint=refused.hint) from refused
    checked = []
    for ref in refs:
        checked.append((yield from _check(inspect_model(ref), deep=deep)))
    result = _result(checked)
    if strict and result.unhealthy:
        raise _unhealthy(result)
    return result


def _check(inspection: Inspection, *, deep: bool) -> Generator[Event, None, ModelHealth]:
    name, findings = inspection.ref.name, inspection.findings
    if deep:
        findings += yield from check_content(inspection.files)
    origin = yield from check_origin(inspection.files, deep=deep)
    state = ABSENT if origin is None else origin.state
    findings += () if origin is None else origin.findings
    if findings:
        return ModelHealth(name, "unhealthy", findings[0].message, findings, state)
    return ModelHealth(name, "healthy", sound_reason(inspection.files), (), state)


def _result(checked: list[ModelHealth]) -> HealthResult:
    healthy = tuple(model for model in checked if model.status == "healthy")
    unhealthy = tuple(model for model in checked if model.status != "healthy")
    return HealthResult(healthy, unhealthy, HealthSummary(len(checked), len(healthy), len(unhealthy)))


def _unhealthy(result: HealthResult) -> UnhealthyModels:
    count = result.summary.unhealthy_count
    first = result.unhealthy[0]
    return UnhealthyModels(
        f"{count} of {result.summary.total} models {'is' if count == 1 else 'are'} unhealthy; "
        f"the first: {first.name} ({first.reason})",
        hint=f"mlxk2 health {first.name} --verbose",
        detail=to_payload(result),
    )
