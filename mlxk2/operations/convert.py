"""Make an MLX model folder out of a GGUF file or another model folder: a plan that only reads, then its execution."""

from __future__ import annotations

import errno
import os
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxk2.convert.gguf_folder import GgufPlan, plan_gguf, write_texts
from mlxk2.convert.target import building, check_target
from mlxk2.errors import ConversionFailed, InsufficientSpace, InvalidSource, InvalidTarget, UsageError
from mlxk2.events import Event, Started
from mlxk2.store.model_ref import ModelRef
from mlxk2.units import format_size

if TYPE_CHECKING:
    from mlxk2.convert.model_folder import FolderSource

BITS = (2, 3, 4, 5, 6, 8)
GROUP_SIZES = (32, 64, 128)
DTYPES = ("float16", "bfloat16", "float32")
_DEFAULT_BITS, _DEFAULT_GROUP_SIZE = 4, 64


@dataclass(frozen=True)
class ConvertOptions:
    """What the weights become. `dtype` None: as in the source; `bits` None: not quantized anew."""

    bits: int | None = None
    group_size: int | None = None
    dtype: str | None = None
    dequantize: bool = False

    @property
    def quantizes(self) -> bool:
        return self.bits is not None or self.group_size is not None

    def check(self) -> None:
        """Refuse values and combinations that make no sense. Raises: UsageError."""
        if self.bits is not None and self.bits not in BITS:
            raise UsageError(f"--bits must be one of {_listed(BITS)}, not {self.bits}")
        if self.group_size is not None and self.group_size not in GROUP_SIZES:
            raise UsageError(f"--group-size must be one of {_listed(GROUP_SIZES)}, not {self.group_size}")
        if self.dtype is not None and self.dtype not in DTYPES:
            raise UsageError(f"--dtype must be one of {_listed(DTYPES)}, not {self.dtype}")
        if self.dequantize and self.quantizes:
            raise UsageError(
                "--dequantize and --bits exclude each other", hint="dequantize into one folder, then quantize that one"
            )


@dataclass(frozen=True)
class ConvertPlan:
    """What `convert` would do. `size_bytes`: about what the weights will take."""

    source: str
    target: Path
    work: GgufPlan | FolderSource
    options: ConvertOptions
    size_bytes: int


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


def plan(text: str, source: Path | ModelRef, target_dir: Path, options: ConvertOptions) -> ConvertPlan:
    """Check source, target and options; changes nothing. `text` is the source as the user wrote it.

    Raises: UsageError, InvalidSource, UnsupportedFormat, ModelUnhealthy, IncompatibleModel, InvalidTarget, InsufficientSpace.
    """
    options.check()
    check_target(target_dir, 0)
    if isinstance(source, Path):
        return _plan_file(text, source, target_dir, options)
    from mlxk2.convert.model_folder import only_gguf

    file = only_gguf(source)
    if file is not None:
        return _plan_file(text, file, target_dir, options)
    return _plan_folder(text, source, target_dir, options)


def execute(chosen: ConvertPlan) -> Generator[Event, None, ConvertResult]:
    """Do what the plan says; the target is complete afterwards, or absent.

    Raises: ConversionFailed, InvalidSource, InvalidTarget, InsufficientSpace, IncompatibleModel, UsageError.
    """
    yield Started(chosen.source)
    try:
        with building(chosen.target) as folder:
            if isinstance(chosen.work, GgufPlan):
                weights = yield from _write_gguf(chosen.work, folder)
            else:
                weights = _write_folder(chosen.work, folder, chosen.options)
            files, size = _measure(folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InsufficientSpace(f"the volume of '{chosen.target}' is full") from error
        raise ConversionFailed(f"the model could not be written: {error.strerror or error}") from error
    except (RuntimeError, MemoryError) as error:
        # mlx raises nothing finer, also for a full volume.
        raise ConversionFailed(f"the weights could not be converted: {str(error) or 'out of memory'}") from error
    return ConvertResult(
        source=chosen.source,
        target_dir=str(chosen.target),
        source_format=weights.source_format,
        architecture=weights.architecture,
        quantization=weights.quantization,
        dtype=weights.dtype,
        files=files,
        bytes=size,
        tensors=weights.tensors,
        message=_message(weights, files, size),
    )


def _plan_file(text: str, file: Path, target_dir: Path, options: ConvertOptions) -> ConvertPlan:
    from mlxk2.convert.mlx_weights import preferred_dtype

    if not file.name.lower().endswith(".gguf"):
        _check_magic(text, file)
    if options.quantizes:
        raise UsageError(
            "--bits and --group-size are for model folders; a GGUF keeps the bits it has",
            hint="convert the file with --dequantize first, then the folder with --bits",
        )
    work = plan_gguf(file, options.dtype, preferred_dtype(), dequantize=options.dequantize)
    target = check_target(target_dir, work.size_bytes)
    return ConvertPlan(text, target, work, options, work.size_bytes)


def _check_magic(text: str, file: Path) -> None:
    with open(file, "rb") as stream:
        if stream.read(4) != b"GGUF":
            raise InvalidSource(
                f"'{text}' is not a GGUF file", hint="convert takes a GGUF file or a model folder: ./dir"
            )


def _plan_folder(text: str, ref: ModelRef, target_dir: Path, options: ConvertOptions) -> ConvertPlan:
    from mlxk2.convert.model_folder import inspect_folder

    target = check_target(target_dir, 0)
    if Path(os.path.realpath(ref.path)) in (target, *target.parents):
        raise InvalidTarget(f"'{target_dir}' lies in the source folder", hint="choose a place outside of it")
    work = inspect_folder(ref)
    _check_change(text, work, options)
    size = work.size_with(
        _bits(options), options.group_size or _DEFAULT_GROUP_SIZE, options.dtype, dequantize=options.dequantize
    )
    check_target(target_dir, size)
    return ConvertPlan(text, target, work, options, size)


def _check_change(text: str, work: FolderSource, options: ConvertOptions) -> None:
    if work.quantization is not None and options.quantizes:
        raise UsageError(
            f"{text} is quantized already", hint=f"mlxk2 convert {text} PLAIN --dequantize, then that one with --bits"
        )
    if options.dequantize and work.quantization is None:
        raise UsageError(f"{text} is not quantized", hint="--dtype changes the type of plain weights")
    is_changed = options.quantizes or options.dequantize or options.dtype
    if work.framework == "MLX" and not is_changed:
        raise UsageError(f"{text} is an MLX model already", hint="--bits 4 makes a smaller copy")


def _write_gguf(work: GgufPlan, folder: Path) -> Generator[Event, None, _Weights]:
    from mlxk2.convert import mlx_weights

    tensors = yield from mlx_weights.write_gguf(work.path, work.weights, folder, work.dtype)
    write_texts(work, folder)
    return _Weights("gguf", work.config["model_type"], work.quantization, work.dtype, tensors)


def _write_folder(work: FolderSource, folder: Path, options: ConvertOptions) -> _Weights:
    from mlxk2.convert import mlx_weights
    from mlxk2.convert.model_folder import copy_along

    job = mlx_weights.FolderJob(
        _bits(options), options.group_size or _DEFAULT_GROUP_SIZE, options.dtype, options.dequantize
    )
    written = mlx_weights.write_folder(work.path, folder, job)
    copy_along(work.path, folder, written.config, work.config)
    described = written.config.get("quantization")
    quantization = {key: described.get(key) for key in ("bits", "group_size", "mode")} if described else None
    if quantization is not None:
        quantization["mode"] = quantization["mode"] or "affine"
    return _Weights(work.source_format, work.config.get("model_type"), quantization, written.dtype, written.tensors)


def _bits(options: ConvertOptions) -> int | None:
    return (options.bits or _DEFAULT_BITS) if options.quantizes else None


def _measure(folder: Path) -> tuple[int, int]:
    sizes = [entry.stat().st_size for entry in os.scandir(folder)]
    return len(sizes), sum(sizes)


def _message(weights: _Weights, files: int, size: int) -> str:
    bits = weights.quantization and weights.quantization["bits"]
    form = f"{bits}-bit" if bits else str(weights.dtype)
    return f"{weights.architecture}, {form}, {weights.tensors} tensors in {files} files, {format_size(size, ' ')}"


def _listed(values: tuple[Any, ...]) -> str:
    return ", ".join(str(value) for value in values)
