"""The command `convert`."""

from __future__ import annotations

import argparse
from pathlib import Path

from mlxk2.cli.io import silence_libraries
from mlxk2.cli.present import Context, present, progress_sink
from mlxk2.errors import UsageError
from mlxk2.operations.convert import ConvertOptions, execute, plan
from mlxk2.settings import Settings
from mlxk2.store.model_ref import ModelRef
from mlxk2.store.resolve import find_model
from mlxk2.store.workspace import is_path

_DTYPES = ("float16", "bfloat16", "float32")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare source, target, and what the weights become."""
    parser.add_argument("source", help="a GGUF file, a model folder (./dir), or a model of the cache")
    parser.add_argument("target_dir", help="the folder to make; it must not exist, or be empty")
    parser.add_argument("--bits", type=int, help="quantize a model folder to so many bits: 2, 3, 4, 5, 6 or 8")
    parser.add_argument("--group-size", type=int, help="weights that share a scale: 32, 64 or 128 (default 64)")
    parser.add_argument("--dtype", choices=_DTYPES, help="type of the weights that are not quantized")
    parser.add_argument("--dequantize", action="store_true", help="turn quantized weights into plain ones of --dtype")


def run(args: argparse.Namespace, context: Context) -> int:
    """Plan, then convert with progress on stderr."""
    if context.json:
        silence_libraries(context.io)
    options = ConvertOptions(args.bits, args.group_size, args.dtype, args.dequantize)
    chosen = plan(args.source, _source(args.source, context.settings), Path(args.target_dir), options)
    with progress_sink(context) as sink:
        return present(context, execute(chosen), sink)


def _source(text: str, settings: Settings) -> Path | ModelRef:
    """A file is taken as it is; anything else names a model."""
    path = Path(text).expanduser()
    if path.is_file():
        return path
    if text.lower().endswith(".gguf"):
        raise UsageError(f"there is no file '{text}'", hint="convert takes a GGUF file or a model folder: ./dir")
    if path.is_dir() and not is_path(text) and "/" not in text:
        raise UsageError(f"'{text}' is a folder here", hint=f"write ./{text} for the folder")
    return find_model(text, settings)
