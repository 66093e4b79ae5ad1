"""`run --input FILE --output FILE`: what cannot go with it, how far it is, and what it came to."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from mlxk2.cli import run_flags
from mlxk2.cli.io import silence_libraries, write
from mlxk2.cli.present import Context, present, progress_sink
from mlxk2.driving import Sink, drain
from mlxk2.errors import Interrupted, UsageError
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
    if not result.remaining:
        return present(context, result)
    interrupted = Interrupted(
        f"the batch was interrupted: {result.remaining} of {result.total} prompts have no answer yet",
        hint="the same command goes on from there",
        data=result,
    )
    if not context.json:
        present(context, result)
    raise interrupted


def _files(args: argparse.Namespace) -> BatchFiles:
    for name in ("input", "output"):
        if getattr(args, name) is None:
            raise UsageError(f"a batch needs --{name}", hint=_EXAMPLE)
        if getattr(args, name) == "-":
            raise UsageError(f"--{name} must be a file", hint=_EXAMPLE)
    for name in _OF_ONE_PROMPT:
        if getattr(args, name):
            flag = "a prompt" if name == "prompt" else "--" + name.replace("_", "-")
            raise UsageError(f"--input cannot be combined with {flag}", hint=_EXAMPLE)
    source, target = (Path(given).expanduser() for given in (args.input, args.output))
    return BatchFiles(source, target, DEFAULT_WIDTH if args.batch_size is None else args.batch_size)


def _warnings(context: Context) -> Sink | None:
    """Where nobody looks at progress, warnings are still told, but not beside JSON and not with --quiet."""
    return None if context.json or context.args.quiet else Warnings(partial(write, context.io.stderr))
