"""The command `run`: one prompt and one answer, a chat, or a file of prompts."""

from __future__ import annotations

import argparse
from collections.abc import Generator
from functools import partial

from mlxk2.cli import run_flags
from mlxk2.cli.io import is_terminal, silence_libraries, write
from mlxk2.cli.present import Context, present, view_of
from mlxk2.driving import Sink, drain
from mlxk2.errors import Interrupted, MlxkError, UsageError
from mlxk2.events import Event
from mlxk2.operations.run import RunResult, prepare, run_model
from mlxk2.output.stream import AnswerStream, Warnings, interrupted_line
from mlxk2.store.model_ref import ModelRef
from mlxk2.store.resolve import find_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the model, the prompt and how to sample."""
    parser.add_argument("model", help="name, part of a name, name@revision, or a folder: ./dir")
    parser.add_argument(
        "prompt", nargs="*", help="what to ask; - reads standard input, and may follow a text; none: a chat"
    )
    run_flags.add_answer(parser)
    run_flags.add_sampling(parser)
    run_flags.add_engine(parser)
    run_flags.add_chat(parser)
    run_flags.add_batch(parser)


def run(args: argparse.Namespace, context: Context) -> int:
    """Check everything that can be checked, then generate."""
    if context.settings.ranks is not None:
        from mlxk2.cli.ranks import run_as_rank
        from mlxk2.operations.ranks import group_of

        ranks = group_of(context.settings)
        if ranks is not None:
            return run_as_rank(args, context, ranks, _show)
    if (args.input, args.output, args.batch_size) != (None, None, None):
        from mlxk2.cli.batch import answer_file

        return answer_file(args, context)
    if _wants_a_chat(args, context):
        from mlxk2.cli.chat.start import chat

        return chat(args, context)
    prompt = _prompt(args.prompt, context)
    options = run_flags.options_of(args, prompt, draft_of(args, context))
    if context.json and not args.verbose:
        silence_libraries(context.io)
    plan = prepare(find_model(args.model, context.settings), options, fast_start=context.settings.fast_start)
    steps = run_model(plan)
    return _show(steps, args, context)


def _wants_a_chat(args: argparse.Namespace, context: Context) -> bool:
    """Whether a person is there who gave no prompt yet: keyboard, and a screen for what they type."""
    screen = is_terminal(context.io.stdout) or is_terminal(context.io.stderr)
    return not args.prompt and not context.json and is_terminal(context.io.stdin) and screen


def _show(steps: Generator[Event, None, RunResult], args: argparse.Namespace, context: Context) -> int:
    return _for_programs(steps, args, context) if context.json else _for_people(steps, args, context)


def draft_of(args: argparse.Namespace, context: Context) -> ModelRef | None:
    """Find the draft model. Raises: ModelNotFound, AmbiguousMatch."""
    return None if args.draft_model is None else find_model(args.draft_model, context.settings)


def _for_programs(steps: Generator[Event, None, RunResult], args: argparse.Namespace, context: Context) -> int:
    sink = None
    if context.stream_json:
        from mlxk2.output.event_lines import EventLines

        sink = EventLines(partial(write, context.io.stdout), hide_reasoning=args.hide_reasoning)
    result: RunResult = drain(steps, sink)
    if result.finish_reason == "interrupted":
        raise Interrupted(f"the generation was {context.io.ending.words}", data=result)
    return present(context, result)


def _for_people(steps: Generator[Event, None, RunResult], args: argparse.Namespace, context: Context) -> int:
    view = view_of(context.io, context.settings)
    # A program gets a constrained answer when it is known to be one, or nothing.
    is_checked = run_flags.is_constrained(args) and not view.on_terminal
    stream = None if args.no_stream or is_checked else AnswerStream(view, hide_reasoning=args.hide_reasoning)
    try:
        result: RunResult = drain(steps, _with_warnings(stream, context))
    except MlxkError:
        if stream is not None:
            stream.break_off()
        raise
    if stream is None:
        present(context, result)
    else:
        stream.end_line()
    if args.verbose:
        context.io.stderr.write(_statistics(result))
    if result.finish_reason == "interrupted":
        context.io.stderr.write(interrupted_line(context.io.ending.signal_name) + "\n")
        return Interrupted.exit_code
    return 0


def _with_warnings(stream: AnswerStream | None, context: Context) -> Sink:
    """Write the answer as it comes, and warnings beside it."""
    warnings = None if context.args.quiet else Warnings(partial(write, context.io.stderr))

    def sink(event: Event) -> None:
        for part in (stream, warnings):
            if part is not None:
                part(event)

    return sink


def _prompt(words: list[str], context: Context) -> str:
    """Put the prompt together from the argument, standard input, or both. Raises: UsageError."""
    words = words or _default_words(context)
    texts = [word for word in words if word != "-"]
    if len(texts) > 1 or len(words) - len(texts) > 1:
        raise UsageError("the prompt must be one argument, in quotes", hint=run_flags.one_answer(context.args.model))
    pieces = [_standard_input(context) if word == "-" else word for word in words]
    prompt = "\n\n".join(piece for piece in pieces if piece)
    if not prompt.strip():
        raise UsageError("the prompt is empty", hint=run_flags.one_answer(context.args.model))
    return prompt


def _default_words(context: Context) -> list[str]:
    """Without a prompt, what is piped in is the prompt. Raises: UsageError where a terminal would have to give it."""
    if is_terminal(context.io.stdin):
        raise UsageError("a prompt is missing (- reads it here)", hint=run_flags.one_answer(context.args.model))
    return ["-"]


def _standard_input(context: Context) -> str:
    if is_terminal(context.io.stdin) and not context.args.quiet:
        context.io.stderr.write("reading the prompt from the terminal; Ctrl-D ends it\n")
        context.io.stderr.flush()
    try:
        return context.io.stdin.read().rstrip("\n")
    except UnicodeDecodeError as broken:
        raise UsageError("standard input is not UTF-8 text", hint=run_flags.as_utf8(context.args.model)) from broken


def _statistics(result: RunResult) -> str:
    first = "-" if result.time_to_first_token_s is None else f"{result.time_to_first_token_s:.2f}"
    usage = result.usage
    return (
        f"prompt {usage.prompt_tokens} tokens ({usage.cached_tokens} cached), answer {usage.completion_tokens} tokens, "
        f"{result.tokens_per_second:.1f} tokens/s, first token after {first} s, ended by {result.finish_reason}\n"
    )
