"""`run` as one of several ranks: what is refused, where the prompt comes from, and who speaks."""

from __future__ import annotations

import argparse
import os
import select
import time
from typing import Callable

from mlxk2.cli import run_flags
from mlxk2.cli.io import silence_libraries
from mlxk2.cli.present import Context
from mlxk2.driving import drain
from mlxk2.errors import Interrupted, UsageError
from mlxk2.operations.ranks import RankJob, run_over_ranks
from mlxk2.operations.run import RunResult
from mlxk2.settings import RankSettings

# What only one machine can do so far.
_ALONE = ("input", "output", "batch_size", "draft_model", "adapter_path", "prompt_cache", "trust_remote_code")


def run_as_rank(args: argparse.Namespace, context: Context, ranks: RankSettings, show: Callable[..., int]) -> int:
    """Run one prompt with the other ranks; `show` presents the answer where this is rank 0.

    Raises: UsageError for what only one machine can do.
    """
    prompt = _prompt(args, context, ranks)
    if context.json and not args.verbose:
        silence_libraries(context.io)
    options = run_flags.options_of(args, prompt, None)
    steps = run_over_ranks(RankJob(args.model, options, context.settings, ranks, args.verbose))
    if ranks.rank == 0:
        return show(steps, args, context)
    result: RunResult = drain(steps, None)
    return Interrupted.exit_code if result.finish_reason == "interrupted" else 0


def _prompt(args: argparse.Namespace, context: Context, ranks: RankSettings) -> str:
    """Rank 0 puts the prompt together; the others get it from there. Raises: UsageError."""
    for name in _ALONE:
        if getattr(args, name, None) not in (None, False):
            raise UsageError(f"--{name.replace('_', '-')} cannot be used over several machines")
    texts = [word for word in args.prompt if word != "-"]
    if not args.prompt or len(texts) > 1 or len(args.prompt) - len(texts) > 1:
        raise UsageError(
            "a run over several machines needs its prompt as one argument, or -: there is no chat",
            hint=run_flags.one_answer(args.model),
        )
    if ranks.rank != 0:
        return ""
    # The others wait with their own patience: rank 0 must come in time.
    read = _standard_input(context, ranks.peer_timeout_s / 2) if "-" in args.prompt else ""
    prompt = "\n\n".join(piece for piece in (read if word == "-" else word for word in args.prompt) if piece)
    if not prompt.strip():
        raise UsageError("the prompt is empty", hint=run_flags.one_answer(args.model))
    return prompt


def _standard_input(context: Context, patience_s: float) -> str:
    """Read to the end, which a launcher may never send. Raises: UsageError."""
    descriptor = context.io.stdin.fileno()
    read, end = bytearray(), time.monotonic() + patience_s
    while True:
        if not select.select([descriptor], [], [], max(end - time.monotonic(), 0))[0]:
            raise UsageError(
                f"standard input did not end within {patience_s:g} s: mlx.launch keeps it open",
                hint=run_flags.one_answer(context.args.model),
            )
        part = os.read(descriptor, 65536)
        if not part:
            break
        read += part
    try:
        return read.decode("utf-8").rstrip("\n")
    except UnicodeDecodeError as broken:
        raise UsageError("standard input is not UTF-8 text", hint=run_flags.as_utf8(context.args.model)) from broken
