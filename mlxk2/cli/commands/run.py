"""The command `run`: one prompt, one answer."""

from __future__ import annotations

import argparse
from collections.abc import Generator

from mlxk2.cli.io import is_terminal, silence_libraries
from mlxk2.cli.present import Context, drain, present, view_of
from mlxk2.errors import Interrupted, UsageError
from mlxk2.events import Event
from mlxk2.operations.run import RunOptions, RunResult, prepare, run_model
from mlxk2.output.stream import AnswerStream
from mlxk2.runner.request import Sampling
from mlxk2.store.resolve import find_model

INTERRUPTED_LINE = "[Generation interrupted by user]"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the model, the prompt and how to sample."""
    default = Sampling()
    parser.add_argument("model", help="name, part of a name, name@revision, or a folder: ./dir")
    parser.add_argument("prompt", nargs="*", help="what to ask; - reads standard input, and may follow a text")
    parser.add_argument("--system", metavar="TEXT", help="system message")
    parser.add_argument(
        "--max-tokens", type=int, metavar="N", help="at most so many tokens (default: what the context leaves)"
    )
    parser.add_argument(
        "--temperature", type=float, default=default.temperature, metavar="X", help="0 is greedy (default 0.7)"
    )
    parser.add_argument(
        "--top-p", type=float, default=default.top_p, metavar="X", help="nucleus sampling (default 0.9)"
    )
    parser.add_argument(
        "--top-k", type=int, default=default.top_k, metavar="N", help="only the N likeliest tokens (0: off)"
    )
    parser.add_argument(
        "--min-p", type=float, default=default.min_p, metavar="X", help="drop tokens less likely than X times the best"
    )
    parser.add_argument(
        "--repetition-penalty",
        type=float,
        default=default.repetition_penalty,
        metavar="X",
        help="1 is off (default 1.1)",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="same seed, prompt and machine: same answer")
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end the answer before this text; may be repeated"
    )
    parser.add_argument("--no-stream", action="store_true", help="print the answer when it is complete")
    parser.add_argument("--no-chat-template", action="store_true", help="give the prompt to the model as it is")
    parser.add_argument("--verbose", action="store_true", help="tell tokens and speed on stderr")


def run(args: argparse.Namespace, context: Context) -> int:
    """Check everything that can be checked, then generate."""
    prompt = _prompt(args.prompt, context)
    options = _options(args, prompt)
    if context.json and not args.verbose:
        silence_libraries(context.io)
    plan = prepare(find_model(args.model, context.settings), options, fast_start=context.settings.fast_start)
    steps = run_model(plan)
    if context.json:
        result: RunResult = drain(steps, None)
        if result.finish_reason == "interrupted":
            raise Interrupted("the generation was interrupted", data=result)
        return present(context, result)
    return _for_people(steps, args, context)


def _for_people(steps: Generator[Event, None, RunResult], args: argparse.Namespace, context: Context) -> int:
    stream = None if args.no_stream else AnswerStream(view_of(context.io, context.settings))
    result: RunResult = drain(steps, stream)
    if stream is None:
        present(context, result)
    else:
        stream.end_line()
    if args.verbose:
        context.io.stderr.write(_statistics(result))
    if result.finish_reason == "interrupted":
        context.io.stderr.write(INTERRUPTED_LINE + "\n")
        return Interrupted.exit_code
    return 0


def _options(args: argparse.Namespace, prompt: str) -> RunOptions:
    sampling = Sampling(
        temperature=args.temperature,
        top_p=args.top_p,
        top_k=args.top_k,
        min_p=args.min_p,
        repetition_penalty=args.repetition_penalty,
        seed=args.seed,
    )
    return RunOptions(prompt, args.system, sampling, args.max_tokens, tuple(args.stop), not args.no_chat_template)


def _prompt(words: list[str], context: Context) -> str:
    """Put the prompt together from the argument, standard input, or both. Raises: UsageError."""
    texts = [word for word in words if word != "-"]
    if not words:
        raise UsageError("a prompt is missing", hint='mlxk2 run MODEL "your question", or - to read standard input')
    if len(texts) > 1 or len(words) - len(texts) > 1:
        raise UsageError("the prompt must be one argument", hint='quote it: mlxk2 run MODEL "your question"')
    pieces = [_standard_input(context) if word == "-" else word for word in words]
    prompt = "\n\n".join(piece for piece in pieces if piece)
    if not prompt.strip():
        raise UsageError("the prompt is empty", hint='mlxk2 run MODEL "your question"')
    return prompt


def _standard_input(context: Context) -> str:
    if is_terminal(context.io.stdin) and not context.args.quiet:
        context.io.stderr.write("reading the prompt from the terminal; Ctrl-D ends it\n")
        context.io.stderr.flush()
    try:
        return context.io.stdin.read().rstrip("\n")
    except UnicodeDecodeError as broken:
        raise UsageError("standard input is not UTF-8 text", hint="iconv -t UTF-8 converts it") from broken


def _statistics(result: RunResult) -> str:
    first = "-" if result.time_to_first_token_s is None else f"{result.time_to_first_token_s:.2f}"
    usage = result.usage
    return (
        f"prompt {usage.prompt_tokens} tokens, answer {usage.completion_tokens} tokens, {result.tokens_per_second:.1f} tokens/s, "
        f"first token after {first} s, ended by {result.finish_reason}\n"
    )
