"""The flags of `run`: declared in groups, and read into what the operation wants. Knows no model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from mlxk2.errors import UsageError
from mlxk2.operations.chat_settings import FAIL, KEEP_CONTEXT
from mlxk2.operations.run import RunOptions
from mlxk2.runner.request import CacheOptions, EngineOptions, Sampling

if TYPE_CHECKING:
    from mlxk2.runner.constraint import Constraint
    from mlxk2.store.model_ref import ModelRef

_LONGEST_SHOWN, _DRAFT_TOKENS = 80, 3
_STRUCTURED = ("json_schema", "regex", "choices")


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Declare how the next token is drawn."""
    default = Sampling()

    def number(flag: str, kind: type, value: Any, metavar: str, text: str) -> None:
        parser.add_argument(flag, type=kind, default=value, metavar=metavar, help=text)

    number("--temperature", float, default.temperature, "X", "0 is greedy (default 0.7)")
    number("--top-p", float, default.top_p, "X", "nucleus sampling (default 0.9)")
    number("--top-k", int, default.top_k, "N", "only the N likeliest tokens (0: off)")
    number("--min-p", float, default.min_p, "X", "drop tokens less likely than X times the best")
    number(
        "--repetition-penalty", float, default.repetition_penalty, "X", "of the last 20 tokens; 1 is off (default 1.1)"
    )
    number(
        "--presence-penalty", float, default.presence_penalty, "X", "subtract X from every token said already (-2 to 2)"
    )
    number(
        "--frequency-penalty", float, default.frequency_penalty, "X", "subtract X for each time it was said (-2 to 2)"
    )
    parser.add_argument(
        "--logit-bias",
        action="append",
        default=[],
        metavar="ID=X",
        help='add X (-100 to 100) to the logit of a token id; may be repeated, or JSON: {"ID": X}',
    )
    parser.add_argument("--seed", type=int, metavar="N", help="same seed, prompt and machine: same answer")


def add_answer(parser: argparse.ArgumentParser) -> None:
    """Declare what the answer is to be, and how it is shown."""
    parser.add_argument("--system", metavar="TEXT", help="system message")
    parser.add_argument(
        "--max-tokens", type=int, metavar="N", help="at most so many tokens (default: what the context leaves)"
    )
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end the answer before this text; may be repeated"
    )
    parser.add_argument(
        "--json-schema", metavar="FILE", help="the answer is JSON that validates against this schema (a file, or JSON)"
    )
    parser.add_argument("--regex", metavar="PATTERN", help="the answer matches this pattern from end to end")
    parser.add_argument(
        "--choices", metavar="A,B,C", help="the answer is one of these, to the letter (or a JSON array)"
    )
    parser.add_argument(
        "--logprobs", type=int, metavar="N", help="with --json: the log probability of each token, and the N likeliest"
    )
    parser.add_argument("--no-stream", action="store_true", help="print the answer when it is complete")
    parser.add_argument(
        "--stream-json", action="store_true", help="one JSON object a line: started, delta, finished; the answer last"
    )
    parser.add_argument("--no-chat-template", action="store_true", help="give the prompt to the model as it is")
    parser.add_argument(
        "--hide-reasoning",
        "--no-reasoning",
        action="store_true",
        help="do not show what a model thinks before it answers",
    )
    parser.add_argument("--verbose", action="store_true", help="tell tokens and speed on stderr")


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Declare how the model is loaded and remembered."""
    parser.add_argument("--adapter-path", metavar="DIR", help="LoRA weights to load over the model's")
    parser.add_argument(
        "--draft-model", metavar="MODEL", help="a smaller model of the same vocabulary that guesses ahead"
    )
    parser.add_argument("--num-draft-tokens", type=int, metavar="N", help="how many tokens it guesses (default 3)")
    parser.add_argument("--kv-bits", type=int, metavar="N", help="keep the KV cache in 2, 3, 4, 6 or 8 bits")
    parser.add_argument("--max-kv-size", type=int, metavar="N", help="keep at most N positions, forgetting older ones")
    parser.add_argument(
        "--prompt-cache", metavar="FILE", help="keep what was read of the prompt in FILE, and begin with it next time"
    )
    parser.add_argument("--force", action="store_true", help="run what does not fit into memory")
    parser.add_argument(
        "--wire-memory", action="store_true", help="keep the model from being swapped out, where the device can"
    )
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="execute code from the model's folder, which may do whatever you may; never done without this",
    )


def add_chat(parser: argparse.ArgumentParser) -> None:
    """Declare what concerns a chat only."""
    parser.add_argument("--no-history", action="store_true", help="in a chat: do not keep what is typed for later ones")
    parser.add_argument(
        "--keep-context",
        choices=KEEP_CONTEXT,
        default=FAIL,
        help="in a chat, when the context is full: an error, or leave out the oldest turns (default fail)",
    )


def add_batch(parser: argparse.ArgumentParser) -> None:
    """Declare what concerns a file of prompts only."""
    parser.add_argument(
        "--input",
        metavar="FILE",
        help='answer many prompts: a line of JSON each, {"id", "prompt"} or {"id", "messages"}',
    )
    parser.add_argument(
        "--output", metavar="FILE", help="with --input: where answers go, a line each; those that are there are kept"
    )
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="with --input: answer at most N at a time (default 32)"
    )


def sampling_of(args: argparse.Namespace) -> Sampling:
    """Read the sampling. Raises: UsageError naming the flag."""
    return Sampling(
        temperature=args.temperature,
        top_p=args.top_p,
        top_k=args.top_k,
        min_p=args.min_p,
        repetition_penalty=args.repetition_penalty,
        presence_penalty=args.presence_penalty,
        frequency_penalty=args.frequency_penalty,
        logit_bias=_logit_bias(args.logit_bias),
        seed=args.seed,
    )


def engine_of(args: argparse.Namespace, draft: ModelRef | None) -> EngineOptions:
    """Read how the model is loaded. Raises: UsageError naming the flag."""
    if draft is None and args.num_draft_tokens is not None:
        raise UsageError("--num-draft-tokens needs --draft-model")
    return EngineOptions(
        cache=CacheOptions(args.kv_bits, args.max_kv_size),
        adapter=_adapter(args.adapter_path),
        draft=None if draft is None else draft.path,
        draft_tokens=_DRAFT_TOKENS if args.num_draft_tokens is None else args.num_draft_tokens,
        wire_memory=args.wire_memory,
        trust_remote_code=args.trust_remote_code,
    )


def one_answer(model: str) -> str:
    """Say what to type for one answer."""
    return f'mlxk2 run {quote(model)} "your question"'


def as_utf8(model: str) -> str:
    """Say what to type for a prompt in a file of another encoding."""
    return f"iconv -f LATIN1 -t UTF-8 FILE | mlxk2 run {quote(model)} -"


def options_of(args: argparse.Namespace, prompt: str, draft: ModelRef | None) -> RunOptions:
    """Read everything that a single run needs. Raises: UsageError naming the flag."""
    if args.logprobs is not None and not (args.json or args.stream_json or args.input):
        raise UsageError("--logprobs are a part of the JSON answer", hint="add --json")
    if args.keep_context != FAIL:
        raise UsageError("--keep-context is for a chat, which has no prompt", hint=f"mlxk2 run {quote(args.model)}")
    if draft is not None and args.prompt_cache:
        raise UsageError("--draft-model cannot be combined with --prompt-cache")
    constraint = constraint_of(args)
    if draft is not None and constraint is not None:
        raise UsageError("--draft-model cannot be combined with --json-schema, --regex or --choices")
    return RunOptions(
        prompt=prompt,
        system=args.system,
        sampling=sampling_of(args),
        max_tokens=args.max_tokens,
        stop=tuple(args.stop),
        use_chat_template=not args.no_chat_template,
        constraint=constraint,
        top_logprobs=args.logprobs,
        engine=engine_of(args, draft),
        draft=draft,
        prompt_cache=_file("--prompt-cache", args.prompt_cache),
        hide_reasoning=args.hide_reasoning,
        force=args.force,
    )


def is_constrained(args: argparse.Namespace) -> bool:
    """Return whether the answer must be of a certain form."""
    return any(getattr(args, name) is not None for name in _STRUCTURED)


def constraint_of(args: argparse.Namespace) -> Constraint | None:
    """Read what the answer must be. Raises: UsageError naming the flag."""
    given = [name for name in _STRUCTURED if getattr(args, name) is not None]
    if not given:
        return None
    if len(given) > 1:
        flags = " and ".join("--" + name.replace("_", "-") for name in given)
        raise UsageError(f"{flags} cannot be combined")
    from mlxk2.runner.constraint import Constraint, read_schema, split_choices

    if args.json_schema is not None:
        return Constraint.json_schema(read_schema(args.json_schema))
    if args.regex is not None:
        return Constraint.regex(args.regex)
    return Constraint.choices(split_choices(args.choices))


def _adapter(given: str | None) -> Path | None:
    if given is None:
        return None
    folder = Path(given).expanduser()
    for name in ("adapter_config.json", "adapters.safetensors"):
        if not (folder / name).is_file():
            raise UsageError(f"--adapter-path: {folder} has no {name}", hint="name the folder that mlx_lm.lora wrote")
    return folder


def _file(flag: str, given: str | None) -> Path | None:
    if given == "":
        raise UsageError(f"{flag} must not be empty")
    return None if given is None else Path(given).expanduser()


def _logit_bias(words: list[str]) -> dict[int, float]:
    """Read ID=X pairs and JSON objects. Raises: UsageError."""
    bias: dict[int, float] = {}
    for word in words:
        try:
            pairs = json.loads(word).items() if word.lstrip().startswith("{") else [word.split("=", 1)]
            bias.update((int(token), float(value)) for token, value in pairs)
        except (ValueError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            raise UsageError(
                f"--logit-bias: {word[:_LONGEST_SHOWN]!r} is no ID=X",
                hint="token ids and numbers: --logit-bias 42=-100",
            ) from error
    return bias
