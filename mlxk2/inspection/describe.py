"""ModelRef -> ModelInfo, the public model object. Whatever the folder holds, the answer is a value, never an error."""

from __future__ import annotations

import time
from typing import NamedTuple

from mlxk2.inspection.capabilities import CAPABILITIES, detect_type
from mlxk2.inspection.context import context_length
from mlxk2.inspection.files import ModelFiles
from mlxk2.inspection.framework import detect_framework
from mlxk2.inspection.integrity import Finding, check_integrity
from mlxk2.inspection.quantization import Quantization, quantization
from mlxk2.inspection.runtime import runtime_problem
from mlxk2.inspection.weights import count_parameters
from mlxk2.store.model_ref import CACHE, ModelRef

_YEAR_10000 = 253_402_300_800
# Answers hold whole numbers that every JSON reader can hold.
_MOST_PARAMETERS = 2**53


class ModelInfo(NamedTuple):
    """The model object of the contract: fields, names and order are those of the JSON answer."""

    name: str
    hash: str | None
    size_bytes: int
    last_modified: str | None
    framework: str
    model_type: str
    capabilities: tuple[str, ...]
    health: str
    runtime_compatible: bool
    reason: str | None
    cached: bool
    context_length: int | None
    quantization: Quantization | None
    parameters: int | None
    source: str


class Inspection(NamedTuple):
    """Everything that is known of one model. `findings` is empty for a sound one."""

    ref: ModelRef
    info: ModelInfo
    findings: tuple[Finding, ...]
    files: ModelFiles


def describe(ref: ModelRef) -> ModelInfo:
    """Return the public model object of one model."""
    return inspect_model(ref).info


def inspect_model(ref: ModelRef) -> Inspection:
    """Inspect one model. Never raises for what its folder holds."""
    files = ModelFiles.read(ref)
    findings = check_integrity(files)
    framework = detect_framework(files)
    model_type = detect_type(files)
    reason = findings[0].message if findings else runtime_problem(files, framework)
    info = ModelInfo(
        name=ref.name,
        hash=ref.revision,
        size_bytes=_total_size(files),
        last_modified=_last_modified(files),
        framework=framework,
        model_type=model_type,
        capabilities=CAPABILITIES[model_type],
        health="unhealthy" if findings else "healthy",
        runtime_compatible=reason is None,
        reason=reason,
        cached=ref.kind == CACHE,
        context_length=context_length(files.config),
        quantization=quantization(files.config),
        parameters=_parameters(files),
        source=ref.kind,
    )
    return Inspection(ref, info, findings, files)


def _total_size(files: ModelFiles) -> int:
    """Sum the sizes, a blob that several names share counted once."""
    sizes = {entry.identity: entry.size_bytes for entry in files.entries if entry.size_bytes is not None}
    return sum(sizes.values())


def _last_modified(files: ModelFiles) -> str | None:
    newest = max((entry.mtime for entry in files.entries), default=0.0)
    if not 0 < newest < _YEAR_10000:
        return None
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(newest))


def _parameters(files: ModelFiles) -> int | None:
    count = count_parameters(files)
    return count if count is not None and count < _MOST_PARAMETERS else None
