"""`run --input FILE --output FILE`: what cannot go with it, how far it is, and what it came to."""

from __future__ import annotations

import argparse
import shlex
from functools import partial
from pathlib import Path

from mlxk2.cli import run_flags
from mlxk2.cli.io import silence_libraries, write
from mlxk2.cli.present import Context, present, progress_sink
from mlxk2.driving import Sink, drain
from mlxk2.errors import BatchIncomplete, Interrupted, MlxkError, UsageError
from mlxk2.operations.batch import DEFAULT_WIDTH, BatchFiles, BatchResult, plan_batch, run_batch
from mlxk2.output.stream import Warnings
from mlxk2.store.resolve import find_model

_EXAMPLE = "mlxk2 run MODEL --input prompts.jsonl --output answers.jsonl"
_OF_ONE_PROMPT = ("prompt", "draft_model", "prompt_cache", "stream_json")


def answer_file(args: argparse.Namespace, context: Context) -> int:
    """Answer every prompt of a file that has no answer yet. Raises: UsageError for what makes no sense together."""
    files = _files(args)
    options = run_flags.options_of(args, "", None)
    if context.json and not args.verbose:
        silence_libraries(context.io)
    ref = find_model(args.model, context.settings)
    plan = plan_batch(ref, options, files, fast_start=context.settings.fast_start)
    with progress_sink(context) as line:
        result: BatchResult = drain(run_batch(plan), line or _warnings(context))
    incomplete = _what_is_missing(result, context)
    if incomplete is None:
        return present(context, result)
    if not context.json:
        present(context, result)
    raise incomplete


def _what_is_missing(result: BatchResult, context: Context) -> MlxkError | None:
    """Return the error that it is when prompts have no answer."""
    if result.remaining:
        return Interrupted(
            f"the batch was {context.io.ending.words}: {result.remaining} of {result.total} prompts have no answer yet;"
            " the same command goes on from there",
            hint=context.line.typed,
            data=result,
        )
    if result.failed:
        return BatchIncomplete(
            f"{result.failed} of {result.total} prompts failed",
            hint=f"jq -c 'select(.error).error' {shlex.quote(result.output)}",
            data=result,
        )
    return None


def _files(args: argparse.Namespace) -> BatchFiles:
    for name in ("input", "output"):
        if getattr(args, name) is None:
            raise UsageError(f"a batch needs --{name}", hint=_EXAMPLE)
        if getattr(args, name) == "-" or (name == "output" and _is_no_file(Path(args.output).expanduser())):
            raise UsageError(f"--{name} must be a file", hint=_EXAMPLE)
    for name in _OF_ONE_PROMPT:
        if getattr(args, name):
            flag = "a prompt" if name == "prompt" else "--" + name.replace("_", "-")
            raise UsageError(f"--input cannot be combined with {flag}", hint=_EXAMPLE)
    source, target = (Path(given).expanduser() for given in (args.input, args.output))
    return BatchFiles(source, target, DEFAULT_WIDTH if args.batch_size is None else args.batch_size)


def _is_no_file(path: Path) -> bool:
    """Whether a path leads to a stream or a device: half of a line could not be taken back. A folder is told apart."""
    of_the_system = path.parts[:1] == ("/",) and path.parts[1:2] in (("dev",), ("proc",))
    return of_the_system or (path.exists() and not (path.is_file() or path.is_dir()))


def _warnings(context: Context) -> Sink | None:
    """Where nobody looks at progress, warnings are still told, but not beside JSON and not with --quiet."""
    return None if context.json or context.args.quiet else Warnings(partial(write, context.io.stderr))
