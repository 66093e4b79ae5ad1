"""The command `convert`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from shlex import quote

from mlxk2.cli.io import silence_libraries
from mlxk2.cli.present import Context, present, progress_sink
from mlxk2.convert.change import BITS, DEFAULT_GROUP_SIZE, DTYPES, GROUP_SIZES, resolve_change
from mlxk2.driving import drain
from mlxk2.errors import InvalidSource, ModelNotFound, UsageError
from mlxk2.operations.convert import ConvertRequest, execute, plan
from mlxk2.settings import Settings
from mlxk2.store.model_ref import ModelRef
from mlxk2.store.resolve import find_model
from mlxk2.store.workspace import from_path, is_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare source, target, and what the weights become."""
    parser.add_argument("source", help="a GGUF file, a model folder (./dir), or a model of the cache")
    parser.add_argument("target_dir", help="the folder to make; it must not exist, or be empty")
    parser.add_argument("--bits", type=int, help=f"quantize a model folder to so many bits: {_choice(BITS)}")
    groups = f"{_choice(GROUP_SIZES)} (default {DEFAULT_GROUP_SIZE})"
    parser.add_argument("--group-size", type=int, help=f"weights that share a scale: {groups}")
    parser.add_argument("--dtype", choices=DTYPES, help="type of the weights that are not quantized")
    parser.add_argument("--dequantize", action="store_true", help="turn quantized weights into plain ones of --dtype")


def run(args: argparse.Namespace, context: Context) -> int:
    """Plan, then convert with progress on stderr."""
    if context.json:
        silence_libraries(context.io)
    settings = context.settings
    if not args.source:
        raise UsageError("the source has no name", hint="mlxk2 convert ./model.gguf ./my-model")
    if not args.target_dir:
        raise UsageError("the target has no name", hint=f"mlxk2 convert {quote(args.source)} ./my-model")
    change = resolve_change(args.bits, args.group_size, args.dtype, dequantize=args.dequantize)
    request = ConvertRequest(
        source_text=args.source,
        source=_source(args.source, settings),
        target_text=args.target_dir,
        target=from_path(args.target_dir, settings.home).path,
        change=change,
        fast_start=settings.fast_start,
    )
    chosen = plan(request)
    with progress_sink(context) as sink:
        result = drain(execute(chosen), sink)
    return present(context, result)


def _source(text: str, settings: Settings) -> Path | ModelRef:
    """A file is taken as it is; anything else names a model."""
    path = from_path(text, settings.home).path
    if os.path.isfile(path):
        return path
    if os.path.lexists(path) and not os.path.isdir(path):
        raise InvalidSource(f"'{text}' is no file that can be read", hint="convert takes a GGUF file or a model folder")
    if text.lower().endswith(".gguf"):
        raise ModelNotFound(f"there is no file '{text}'", hint="convert takes a GGUF file or a model folder: ./dir")
    if os.path.isdir(path) and not is_path(text) and "/" not in text:
        raise UsageError(f"'{text}' is a folder here", hint=f"write ./{text} for the folder")
    return find_model(text, settings)


def _choice(values: tuple[int, ...]) -> str:
    *most, last = values
    return f"{', '.join(map(str, most))} or {last}"
