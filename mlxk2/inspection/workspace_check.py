"""Is what a push would take a sound model? The findings of `health`, in the words of `push`. Reads no network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mlxk2.envelope import ABSENT
from mlxk2.inspection import files as model_files
from mlxk2.inspection.files import ModelFiles
from mlxk2.inspection.integrity import Finding, check_integrity
from mlxk2.inspection.upload_set import UploadSet
from mlxk2.inspection.weights import PYTORCH_INDEX, SAFETENSORS_INDEX, find_shards, weight_entries
from mlxk2.store.model_ref import ModelRef
from mlxk2.text import one_line

ERROR = "error"
WARNING = "warn"

_WARNINGS = frozenset({"partial_marker"})
_SAME_AS = {"index_unsafe_shard": "index_missing_shard"}
_MOST_MISSING = 1000


@dataclass(frozen=True)
class Anomaly:
    """One thing to know before the folder is published. `missing` lists the shards that an index names in vain."""

    severity: str
    code: str
    message: str
    path: Any = ABSENT
    missing: Any = ABSENT


@dataclass(frozen=True)
class ConfigState:
    exists: bool
    valid_json: bool
    path: str | None


@dataclass(frozen=True)
class IndexState:
    has_index: bool
    missing: tuple[str, ...]
    parse_error: Any = ABSENT


@dataclass(frozen=True)
class WeightsState:
    """`pattern_complete` is None where no file is numbered as a part of a whole."""

    count: int
    formats: tuple[str, ...]
    index: IndexState
    pattern_complete: bool | None


@dataclass(frozen=True)
class WorkspaceHealth:
    """What is wrong with a folder, and what it holds; the field names are those of the answer."""

    healthy: bool
    anomalies: tuple[Anomaly, ...]
    config: ConfigState
    weights: WeightsState
    files_count: int
    total_bytes: int

    @property
    def problems(self) -> str:
        """Count what is wrong in a few words; empty where nothing is."""
        errors = sum(anomaly.severity == ERROR for anomaly in self.anomalies)
        counts = ((errors, "error"), (len(self.anomalies) - errors, "warning"))
        return ", ".join(f"{count} {word}{'' if count == 1 else 's'}" for count, word in counts if count)


def check_workspace(ref: ModelRef, upload: UploadSet) -> WorkspaceHealth:
    """Check what would be pushed of the folder `ref`, as if it were all there is."""
    files = ModelFiles(ref, upload.entries)
    findings = check_integrity(files)
    anomalies = (*_found(findings, files), *_left_out(upload))
    return WorkspaceHealth(
        healthy=all(anomaly.severity != ERROR for anomaly in anomalies),
        anomalies=anomalies,
        config=_config(files),
        weights=_weights(files, findings),
        files_count=len(upload.files),
        total_bytes=upload.total_bytes,
    )


def card_advice(ref: ModelRef, upload: UploadSet) -> str | None:
    """Say what README.md lacks for the model to be recognised as an MLX chat model, or None. It is not ours to write."""
    files = ModelFiles(ref, upload.entries)
    card = files.front_matter
    if "gguf" in _formats(files) or not weight_entries(files):
        return None
    if card.library_name or card.pipeline_tag or card.tags:
        return None
    state = "has no front matter" if files.has("README.md") else "is missing"
    return (
        f"README.md {state}; to be recognised as an MLX chat model it begins with the lines"
        " `---`, `library_name: mlx`, `pipeline_tag: text-generation`, `tags: [mlx, chat]`, `---`"
    )


def _found(findings: tuple[Finding, ...], files: ModelFiles) -> Iterator[Anomaly]:
    told = set()
    for finding in findings:
        code = _SAME_AS.get(finding.code, finding.code)
        if (code, finding.message) in told:
            continue
        told.add((code, finding.message))
        is_index = finding.code == "index_missing_shard" and finding.message.startswith("Missing weight shards")
        yield Anomaly(
            severity=WARNING if code in _WARNINGS else ERROR,
            code=code,
            message=finding.message,
            path=ABSENT if finding.path is None else finding.path,
            missing=_missing(files) if is_index or finding.code == "index_unsafe_shard" else ABSENT,
        )


def _left_out(upload: UploadSet) -> Iterator[Anomaly]:
    for left in upload.left_out:
        yield Anomaly(WARNING, left.code, left.message, left.path)


def _config(files: ModelFiles) -> ConfigState:
    exists = files.config_problem != model_files.CONFIG_MISSING
    return ConfigState(exists, files.config is not None, "config.json" if exists else None)


def _weights(files: ModelFiles, findings: tuple[Finding, ...]) -> WeightsState:
    broken = next((finding.message for finding in findings if finding.code == "index_parse_error"), None)
    return WeightsState(
        count=len(weight_entries(files)),
        formats=_formats(files),
        index=IndexState(_index(files) is not None, _missing(files), ABSENT if broken is None else broken),
        pattern_complete=_pattern_complete(files),
    )


def _formats(files: ModelFiles) -> tuple[str, ...]:
    return tuple(sorted({entry.name.rpartition(".")[2].lower() for entry in weight_entries(files)}))


def _index(files: ModelFiles) -> str | None:
    return next((name for name in (SAFETENSORS_INDEX, PYTORCH_INDEX) if name in files.by_name), None)


def _missing(files: ModelFiles) -> tuple[str, ...]:
    """List the files that the index names and that are not there."""
    index = files.json(_index(files) or "")
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict):
        return ()
    present = {entry.name for entry in files.entries if entry.size_bytes is not None}
    names = {one_line(name) for name in weight_map.values() if isinstance(name, str)}
    return tuple(sorted(names - present)[:_MOST_MISSING])


def _pattern_complete(files: ModelFiles) -> bool | None:
    present: dict[tuple[str, int], set[int]] = {}
    for shard in find_shards(files):
        numbers = present.setdefault((shard.group, shard.total), set())
        if shard.entry.size_bytes is not None:
            numbers.add(shard.number)
    if not present:
        return None
    return all(numbers == set(range(1, total + 1)) for (_, total), numbers in present.items())
