"""Make an MLX model folder out of a GGUF file or another model folder: a plan that only reads, then its execution."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from mlxk2.convert.change import WeightChange
from mlxk2.convert.model_folder import FolderJob, FolderSource, copy_along, inspect_folder, only_gguf
from mlxk2.errors import ConversionFailed, DependencyMissing, InvalidSource, InvalidTarget, UsageError
from mlxk2.events import Event, Started
from mlxk2.inspection.framework import MLX
from mlxk2.inspection.gguf_types import MAGIC
from mlxk2.store.model_ref import ModelRef
from mlxk2.store.target import Target, building, check_space, find_target
from mlxk2.units import format_size

if TYPE_CHECKING:
    from mlxk2.convert.gguf_folder import GgufPlan


@dataclass(frozen=True)
class ConvertRequest:
    """What the user asked for. The texts are as they were typed: messages show no other path."""

    source_text: str
    source: Path | ModelRef
    target_text: str
    target: Path
    change: WeightChange = WeightChange()
    fast_start: bool = True


@dataclass(frozen=True)
class ConvertPlan:
    """What `convert` would do, complete: nothing is looked up again."""

    source: str
    target: Target
    job: GgufPlan | FolderJob

    @property
    def size_bytes(self) -> int:
        """Tell about how many bytes the weights will take."""
        return self.job.size_bytes


@dataclass(frozen=True)
class ConvertResult:
    source: str
    target_dir: str
    source_format: str
    architecture: str | None
    quantization: dict[str, Any] | None
    dtype: str | None
    files: int
    bytes: int
    tensors: int
    message: str


@dataclass(frozen=True)
class _Weights:
    """What is known once the weights are written."""

    source_format: str
    architecture: str | None
    quantization: dict[str, Any] | None
    dtype: str | None
    tensors: int


def plan(request: ConvertRequest) -> ConvertPlan:
    """Check target and source; changes nothing.

    Raises: UsageError, InvalidSource, UnsupportedFormat, ModelUnhealthy, IncompatibleModel, InvalidTarget, InsufficientSpace,
    DependencyMissing.
    """
    target = find_target(request.target_text, request.target)
    job = _job(request, target)
    check_space(target, job.size_bytes)
    return ConvertPlan(request.source_text, target, job)


def execute(chosen: ConvertPlan) -> Generator[Event, None, ConvertResult]:
    """Do what the plan says; the target is complete afterwards, or absent.

    Raises: ConversionFailed, InvalidSource, InvalidTarget, InsufficientSpace, IncompatibleModel, UsageError.
    """
    yield Started(chosen.source)
    try:
        with building(chosen.target, chosen.size_bytes) as folder:
            if isinstance(chosen.job, FolderJob):
                weights = _write_folder(chosen.job, folder)
            else:
                weights = yield from _write_gguf(chosen.job, folder)
            files, size = _measure(folder)
    except OSError as error:
        raise ConversionFailed(f"the conversion failed: {error.strerror or type(error).__name__}") from error
    except (RuntimeError, MemoryError) as error:
        reason = _without_paths(str(error), chosen) or "out of memory"
        raise ConversionFailed(f"the weights could not be converted: {reason}") from error
    return ConvertResult(
        source=chosen.source,
        target_dir=str(chosen.target.path),
        source_format=weights.source_format,
        architecture=weights.architecture,
        quantization=weights.quantization,
        dtype=weights.dtype,
        files=files,
        bytes=size,
        tensors=weights.tensors,
        message=_message(weights, files, size),
    )


@contextmanager
def _needed() -> Iterator[None]:
    """Around imports of what brings mlx, mlx-lm's dependencies or tokenizers along."""
    try:
        yield
    except ImportError as error:
        raise DependencyMissing(
            f"convert needs a package that cannot be imported: {error}", hint="pip install mlxk2"
        ) from error


def _job(request: ConvertRequest, target: Target) -> GgufPlan | FolderJob:
    """A file is a GGUF, and so is a folder that holds nothing but one."""
    source = request.source
    if isinstance(source, Path):
        return _gguf_job(request.source_text, source, request.change)
    file = only_gguf(source)
    if file is not None:
        return _gguf_job(request.source_text, file, request.change)
    return _folder_job(source, request, target)


def _gguf_job(text: str, file: Path, change: WeightChange) -> GgufPlan:
    with _needed():
        from mlxk2.convert.gguf_folder import plan_gguf
        from mlxk2.convert.mlx_weights import preferred_dtype

    if not file.name.lower().endswith(".gguf"):
        _check_magic(text, file)
    if change.bits is not None:
        raise UsageError(
            "--bits and --group-size are for model folders; a GGUF keeps the bits it has",
            hint=_in_two_steps(text, change),
        )
    return plan_gguf(file, change.dtype, preferred_dtype(), dequantize=change.dequantize)


def _in_two_steps(text: str, change: WeightChange) -> str:
    """Say what to type for other bits than a source has."""
    return f"mlxk2 convert {quote(text)} ./plain --dequantize && mlxk2 convert ./plain ./another --bits {change.bits}"


def _check_magic(text: str, file: Path) -> None:
    try:
        with open(file, "rb") as stream:
            start = stream.read(len(MAGIC))
    except OSError as error:
        raise InvalidSource(f"'{text}' cannot be read: {error.strerror}") from error
    if start != MAGIC:
        raise InvalidSource(f"'{text}' is not a GGUF file", hint="convert takes a GGUF file or a model folder: ./dir")


def _folder_job(ref: ModelRef, request: ConvertRequest, target: Target) -> FolderJob:
    if Path(os.path.realpath(ref.path)) in (target.path, *target.path.parents):
        raise InvalidTarget(f"'{target.text}' lies in the source folder", hint="choose a place outside of it")
    source = inspect_folder(ref)
    _check_change(request.source_text, source, request.change)
    return FolderJob(source, request.change, request.fast_start)


def _check_change(text: str, source: FolderSource, change: WeightChange) -> None:
    if source.is_quantized and change.bits is not None:
        raise UsageError(f"{text} is quantized already", hint=_in_two_steps(text, change))
    if change.dequantize and not source.is_quantized:
        raise UsageError(f"{text} is not quantized", hint=f"mlxk2 convert {quote(text)} ./another --dtype float16")
    if source.framework == MLX and change.is_none:
        raise UsageError(f"{text} is an MLX model already", hint=f"mlxk2 convert {quote(text)} ./smaller --bits 4")


def _write_gguf(job: GgufPlan, folder: Path) -> Generator[Event, None, _Weights]:
    with _needed():
        from mlxk2.convert.gguf_folder import write_texts
        from mlxk2.convert.mlx_weights import write_gguf

    tensors = yield from write_gguf(job.path, job.weights, folder, job.dtype)
    write_texts(job, folder)
    return _Weights("gguf", job.config["model_type"], job.quantization, job.dtype, tensors)


def _write_folder(job: FolderJob, folder: Path) -> _Weights:
    with _needed():
        from mlxk2.convert.mlx_weights import write_folder

    source = job.source
    written = write_folder(source.ref.path, folder, job.change, fast_start=job.fast_start)
    copy_along(source, folder, written.config)
    described = written.config.get("quantization")
    quantization = {key: described.get(key) for key in ("bits", "group_size", "mode")} if described else None
    if quantization is not None:
        quantization["mode"] = quantization["mode"] or "affine"
    return _Weights(source.source_format, source.config.get("model_type"), quantization, written.dtype, written.tensors)


def _without_paths(text: str, chosen: ConvertPlan) -> str:
    """MLX names the file in its own way: by its whole path."""
    source = chosen.job.source.ref.path if isinstance(chosen.job, FolderJob) else chosen.job.path.parent
    for folder in (chosen.target.path.parent, source):
        if folder.is_absolute():
            text = text.replace(f"{folder}{os.sep}", "")
    return text


def _measure(folder: Path) -> tuple[int, int]:
    sizes = [entry.stat().st_size for entry in os.scandir(folder)]
    return len(sizes), sum(sizes)


def _message(weights: _Weights, files: int, size: int) -> str:
    bits = weights.quantization and weights.quantization["bits"]
    form = f"{bits}-bit" if bits else str(weights.dtype)
    return f"{weights.architecture}, {form}, {weights.tensors} tensors in {files} files, {format_size(size, ' ')}"
