"""Weights as MLX arrays: GGUF blocks taken over one by one, folders quantized through mlx-lm. Imports mlx; nobody else here does.

MLX's own GGUF loader is not used: it trusts the file, and holds all of it in memory at once.
"""

from __future__ import annotations

import importlib
import inspect
import io
import json
from collections.abc import Generator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map_with_path

from mlxk2.convert.change import DTYPES, WeightChange
from mlxk2.convert.gguf_weights import GROUP_SIZE, Weight
from mlxk2.errors import DependencyMissing, IncompatibleModel, InvalidSource, UsageError
from mlxk2.events import Event, Progress
from mlxk2.inspection.weights import SAFETENSORS_INDEX
from mlxk2.runner import fast_start as stand_ins
from mlxk2.runner.mlx_backend.library import file_limit_kept, translated

MAX_SHARD_BYTES = 5 * 10**9
_DTYPES = {name: getattr(mx, name) for name in DTYPES}
_FORMAT = {"format": "mlx"}


def write_gguf(path: Path, weights: tuple[Weight, ...], folder: Path, dtype: str) -> Generator[Event, None, int]:
    """Write the weights of a checked GGUF as safetensors into `folder`, one tensor in work at a time.

    Returns the number of arrays.
    """
    shards = _shards(weights, dtype)
    total, done, places = sum(w.size_bytes(dtype) for w in weights), 0, {}
    with open(path, "rb") as stream:
        for number, shard in enumerate(shards, 1):
            arrays: dict[str, mx.array] = {}
            for weight in shard:
                arrays.update(_take_over(stream, weight, _DTYPES[dtype]))
                done += weight.size_bytes(dtype)
                yield Progress(done, total, "bytes")
            name = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            mx.save_safetensors(str(folder / name), arrays, metadata=_FORMAT)
            places.update(dict.fromkeys(arrays, name))
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
        (folder / SAFETENSORS_INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")
    return len(places)


def _shards(weights: tuple[Weight, ...], dtype: str) -> list[list[Weight]]:
    shards: list[list[Weight]] = [[]]
    filled = 0
    for weight in weights:
        size = weight.size_bytes(dtype)
        if shards[-1] and filled + size > MAX_SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append(weight)
        filled += size
    return shards


def _take_over(stream: BinaryIO, weight: Weight, dtype: Any) -> dict[str, mx.array]:
    tensor = weight.source
    rows = tensor.elements // tensor.shape[-1]
    raw = bytearray(tensor.size_bytes)
    stream.seek(tensor.offset)
    if stream.readinto(raw) != len(raw):  # type: ignore[attr-defined]
        raise InvalidSource(f"tensor '{tensor.name}' ended while it was being read")
    blocks = mx.array(memoryview(raw).cast("B", [rows, tensor.size_bytes // rows]))
    if tensor.type in ("F32", "F16"):
        parts = [blocks.view(mx.float32 if tensor.type == "F32" else mx.float16).reshape(tensor.shape)]
    else:
        parts = list(_unpack(blocks, tensor.type))
        if weight.bits is None:
            parts = [_dequantized(*parts)]
        else:
            parts[0] = _packed(parts[0], weight.bits)
    if weight.heads is not None:
        parts = [_halves_together(part, weight.heads) for part in parts]
    parts = [part if part.dtype == mx.uint32 else part.astype(dtype) for part in parts]
    mx.eval(parts)
    return dict(zip(weight.arrays, parts))


def _unpack(blocks: mx.array, kind: str) -> tuple[mx.array, mx.array, mx.array]:
    """Take blocks apart. Shape: (R, bytes) -> levels (R, C) uint8, scales (R, C/32), biases (R, C/32), both float32.

    Source: ggml-quants.c, dequantize_row_q4_0, _q4_1, _q8_0; here value = scale * level + bias.
    """
    rows, block_bytes = blocks.shape[0], {"Q4_0": 18, "Q4_1": 20, "Q8_0": 34}[kind]
    blocks = blocks.reshape(rows, -1, block_bytes)
    header = 4 if kind == "Q4_1" else 2
    numbers = mx.contiguous(blocks[..., :header]).view(mx.float16).astype(mx.float32)
    levels = blocks[..., header:]
    scales = numbers[..., 0]
    if kind == "Q8_0":
        # Signed bytes become levels from 0 to 255 by flipping the sign bit.
        return (levels ^ mx.array(0x80, mx.uint8)).reshape(rows, -1), scales, scales * -128
    levels = mx.concatenate([levels & mx.array(15, mx.uint8), levels >> mx.array(4, mx.uint8)], axis=-1)
    return levels.reshape(rows, -1), scales, numbers[..., 1] if kind == "Q4_1" else scales * -8


def _packed(levels: mx.array, bits: int) -> mx.array:
    """Pack levels as MLX holds them. Shape: (R, C) uint8 -> (R, C * bits / 32) uint32, the first level lowest."""
    if bits == 4:
        levels = levels[:, 0::2] | (levels[:, 1::2] << mx.array(4, mx.uint8))
    return mx.contiguous(levels).view(mx.uint32)


def _dequantized(levels: mx.array, scales: mx.array, biases: mx.array) -> mx.array:
    grouped = levels.reshape(*scales.shape, GROUP_SIZE).astype(mx.float32)
    return (grouped * scales[..., None] + biases[..., None]).reshape(levels.shape)


def _halves_together(rows: mx.array, heads: int) -> mx.array:
    """Undo the interleaving of each head's two halves. Shape: (heads * d, …) stays."""
    pairs = rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def preferred_dtype() -> str:
    """Tell which type suits the scales and norms beside quantized weights: MLX's CPU emulates float16 slowly."""
    return "float16" if mx.default_device() == mx.gpu else "float32"


@dataclass(frozen=True)
class FolderWeights:
    """What was written of a folder: mlx-lm's config, and the number and the commonest float type of the arrays."""

    config: dict[str, Any]
    tensors: int
    dtype: str | None


def write_folder(source: Path, folder: Path, change: WeightChange, *, fast_start: bool) -> FolderWeights:
    """Load a model folder through mlx-lm, change its weights and save them into `folder`.

    Raises: IncompatibleModel with mlx-lm's words; UsageError where a group size does not divide a weight's rows.
    """
    installed = stand_ins.install() if fast_start else None
    try:
        utils, model, config = _load(source)
        with translated("mlx-lm cannot change the weights", IncompatibleModel):
            model, config = _changed(utils, model, config, change)
        arrays = dict(tree_flatten(model.parameters()))
        dtype, count = _float_type(arrays), len(arrays)
        del arrays
        utils.save_model(folder, model, donate_model=True)
        return FolderWeights(config, count, dtype)
    finally:
        if installed is not None:
            installed.remove()


def _load(source: Path) -> tuple[Any, Any, dict[str, Any]]:
    try:
        return _load_once(source)
    except (DependencyMissing, IncompatibleModel):
        # mlx-lm, or the model's module, may need what the stand-ins only stand for.
        if not stand_ins.withdraw():
            raise
        return _load_once(source)


def _load_once(source: Path) -> tuple[Any, Any, dict[str, Any]]:
    with translated("mlx-lm cannot be imported", DependencyMissing), file_limit_kept():
        utils = importlib.import_module("mlx_lm.utils")
    takes = inspect.signature(utils.load_model).parameters
    options = {"trust_remote_code": False} if "trust_remote_code" in takes else {}
    with translated("mlx-lm cannot load the source", IncompatibleModel):
        loaded = utils.load_model(source, lazy=True, **options)
        return utils, loaded[0], dict(loaded[1])


def _changed(utils: Any, model: Any, config: dict[str, Any], change: WeightChange) -> tuple[Any, dict[str, Any]]:
    if change.dequantize:
        model = utils.dequantize_model(model)
        config.pop("quantization", None)
        config.pop("quantization_config", None)
    _cast(model, change.dtype)
    if change.bits is not None:
        _check_groups(model, change.group_size)
        # mlx-lm prints how many bits a weight takes.
        with redirect_stdout(io.StringIO()):
            model, config = utils.quantize_model(model, config, group_size=change.group_size, bits=change.bits)
    return model, config


def _cast(model: Any, dtype: str | None) -> None:
    if dtype is None:
        return
    wanted, may_cast = _DTYPES[dtype], getattr(model, "cast_predicate", lambda _name: True)

    def cast(name: str, value: mx.array) -> mx.array:
        return value.astype(wanted) if may_cast(name) and mx.issubdtype(value.dtype, mx.floating) else value

    model.update(tree_map_with_path(cast, model.parameters()))


def _check_groups(model: Any, group_size: int) -> None:
    """mlx-lm leaves out what does not divide, without a word; a copy that is not what was asked for is no copy."""
    for name, module in model.named_modules():
        if hasattr(module, "to_quantized") and module.weight.shape[-1] % group_size:
            width = module.weight.shape[-1]
            fitting = [size for size in (128, 64, 32) if width % size == 0]
            raise UsageError(
                f"--group-size {group_size} does not divide the {width} columns of '{name}'",
                hint=f"--group-size {fitting[0]} does" if fitting else "this model cannot be quantized in groups",
            )


def _float_type(arrays: dict[str, mx.array]) -> str | None:
    sizes: dict[str, int] = {}
    for array in arrays.values():
        if mx.issubdtype(array.dtype, mx.floating):
            name = str(array.dtype).rsplit(".", 1)[-1]
            sizes[name] = sizes.get(name, 0) + array.size
    return max(sizes, key=lambda name: sizes[name]) if sizes else None
