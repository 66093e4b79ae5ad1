"""`run`: a model answers one prompt.

    plan = prepare(find_model(name, settings), RunOptions(prompt, system, sampling), fast_start=settings.fast_start)
    result = drain(run_model(plan), sink)

`prepare` refuses before a weight is read; `run_model` yields Started, Delta... and Finished, and returns a RunResult.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxk2 import errors
from mlxk2.envelope import ABSENT
from mlxk2.events import Event, Finished, Timing, Usage, Warned
from mlxk2.inspection.describe import Inspection, inspect_model
from mlxk2.inspection.framework import MLX
from mlxk2.inspection.runtime import custom_code, runtime_problem
from mlxk2.operations.run_memory import MemoryPlan
from mlxk2.operations.structured import value_of
from mlxk2.runner.limits import EXPECTED_ANSWER_TOKENS
from mlxk2.runner.prompt_cache_file import read_prompt_cache
from mlxk2.runner.request import EngineOptions, GenerationRequest, Message, Sampling
from mlxk2.runner.token_bytes import shown
from mlxk2.store.model_ref import ModelRef

if TYPE_CHECKING:
    from mlxk2.runner.answer import Answer, ChosenToken, PreparedPrompt
    from mlxk2.runner.constraint import Constraint
    from mlxk2.runner.runner import MLXRunner


@dataclass(frozen=True)
class RunOptions:
    """What the user asked for; without `use_chat_template` the model reads the prompt as it is.

    `force` runs what does not fit into memory; `hide_reasoning` leaves out what the model thought; `prompt_cache` is a
    file that keeps what was read of the prompt for the next run.
    """

    prompt: str
    system: str | None
    sampling: Sampling
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    use_chat_template: bool = True
    constraint: Constraint | None = None
    top_logprobs: int | None = None
    engine: EngineOptions = EngineOptions()
    draft: ModelRef | None = None
    prompt_cache: Path | None = None
    hide_reasoning: bool = False
    force: bool = False


@dataclass(frozen=True)
class RunPlan:
    """A run that may begin: the model is sound, runnable, and its weights fit."""

    inspection: Inspection
    options: RunOptions
    request: GenerationRequest
    memory: MemoryPlan
    fast_start: bool


@dataclass(frozen=True)
class RunResult:
    """The answer. Units: seconds; `tokens_per_second` is the decode rate, the prefill does not count.

    `parsed` is there with a constraint, `logprobs` where they were asked for, `warnings` where there is one.
    """

    model: str
    prompt: str
    response: str
    reasoning: str | None
    finish_reason: str
    usage: Usage
    tokens_generated: int
    generation_time_s: float
    time_to_first_token_s: float | None
    tokens_per_second: float
    parsed: Any = ABSENT
    logprobs: tuple[ChosenToken, ...] = ABSENT
    warnings: tuple[str, ...] = ABSENT


def prepare(
    ref: ModelRef,
    options: RunOptions,
    *,
    fast_start: bool = True,
    memory_limit: int | None = None,
    share: float = 1.0,
) -> RunPlan:
    """Check everything that can be known without reading a weight.

    `memory_limit`: bytes that the model may use; None asks the machine. `share`: the part of the layers that this
    machine holds, where several hold the model together.

    Raises: UsageError, ModelNotFound, ModelUnhealthy, IncompatibleModel, InsufficientMemory, DependencyMissing.
    """
    request = request_of(options)
    trusts_code = options.engine.trust_remote_code
    inspection = runnable(ref, trusts_code=trusts_code)
    if options.constraint is not None:
        options.constraint.check()
    if options.prompt_cache is not None:
        read_prompt_cache(options.prompt_cache)
    draft = None if options.draft is None else runnable(options.draft, trusts_code=trusts_code)
    memory = MemoryPlan.of(inspection, draft, options.engine, limit=memory_limit, force=options.force, share=share)
    memory.check(request.max_tokens or EXPECTED_ANSWER_TOKENS)
    return RunPlan(inspection, options, request, memory, fast_start)


def runnable(ref: ModelRef, *, trusts_code: bool | None = None) -> Inspection:
    """Inspect a model that is to be run, with code of its own where that is trusted; None: it never can be.

    Raises: ModelUnhealthy, IncompatibleModel.
    """
    inspection = inspect_model(ref)
    info = inspection.info
    if info.health != "healthy":
        raise errors.ModelUnhealthy(f"{info.name} is broken: {info.reason}", hint=f"mlxk2 health {info.name} --verbose")
    needs_code = custom_code(inspection.files) is not None
    problem = info.reason
    if problem and needs_code and trusts_code:
        problem = runtime_problem(inspection.files, info.framework, trusts_code=True)
    if problem:
        is_offered = needs_code and trusts_code is False and info.framework == MLX
        hint = f"mlxk2 run {info.name} --trust-remote-code" if is_offered else f"mlxk2 show {info.name}"
        raise errors.IncompatibleModel(f"{info.name} cannot be run: {problem}", hint=hint)
    return inspection


def run_model(plan: RunPlan) -> Generator[Event, None, RunResult]:
    """Yield the events of the answer and return the whole.

    KeyboardInterrupt, striking here or thrown in by the consumer, ends it with what was said so far and the
    finish reason "interrupted"; an answer that is complete keeps its own reason.

    Raises: ContextLengthExceeded, InsufficientMemory, IncompatibleModel, GenerationFailed, DependencyMissing,
        StructuredOutputFailed.
    """
    from mlxk2.runner.runner import MLXRunner

    name = plan.inspection.info.name
    runner = MLXRunner(plan.inspection.files, fast_start=plan.fast_start, label=name, options=plan.options.engine)
    answer: Answer | None = None
    warnings: list[str] = []
    try:
        with runner:
            prompt = runner.prepare(plan.request)
            plan.memory.check(expected_tokens(prompt), runner.recommended_memory_bytes())
            yield from _read_cache(plan, runner, warnings)
            answer = yield from runner.answer(prompt)
            yield from _write_cache(plan, runner, prompt, answer, warnings)
    except KeyboardInterrupt:
        # Struck while the model was still being set up, and nothing was said, or while it was put away.
        if answer is None:
            nothing = Finished("interrupted", Usage(0, 0, 0), Timing(None, 0.0))
            yield nothing
            return result_of(plan, nothing)
    if _is_unfinished_thought(answer):
        yield from _warned("no answer: the thought was cut off; raise --max-tokens", warnings)
    return result_of(plan, answer.finished, answer, tuple(warnings))


def _read_cache(plan: RunPlan, runner: MLXRunner, warnings: list[str]) -> Iterator[Event]:
    file = plan.options.prompt_cache
    if file is not None and not runner.use_prompt_cache(file):
        yield from _warned(f"{file} is of another model, other options or another mlx-lm: it is written anew", warnings)


def _write_cache(
    plan: RunPlan, runner: MLXRunner, prompt: PreparedPrompt, answer: Answer, warnings: list[str]
) -> Iterator[Event]:
    """Keep what was read for the next run; the answer is there already, and is not lost where that fails."""
    file = plan.options.prompt_cache
    if file is None or answer.finish_reason == "interrupted":
        return
    try:
        runner.write_prompt_cache(file, prompt)
    except (errors.OutputFailed, errors.UsageError) as error:
        yield from _warned(error.message, warnings)


def _is_unfinished_thought(answer: Answer) -> bool:
    return answer.finish_reason == "length" and answer.reasoning is not None and not answer.text


def _warned(message: str, warnings: list[str]) -> Iterator[Event]:
    warnings.append(message)
    yield Warned(message)


def request_of(options: RunOptions, messages: tuple[Message, ...] | None = None) -> GenerationRequest:
    """Return what is asked of the model: `messages` as they are, else the prompt as text or as a user's message.

    Raises: UsageError naming the flag.
    """
    limits: dict[str, Any] = {
        "sampling": options.sampling,
        "max_tokens": options.max_tokens,
        "stop": options.stop,
        "constraint": options.constraint,
        "top_logprobs": options.top_logprobs,
    }
    if not options.use_chat_template:
        if options.system:
            raise errors.UsageError(
                "--system needs the chat template",
                hint="write the system text into the prompt, or drop --no-chat-template",
            )
        return GenerationRequest(prompt=options.prompt, **limits)
    if messages is not None:
        return GenerationRequest(messages=messages, **limits)
    system = (Message("system", options.system),) if options.system else ()
    return GenerationRequest(messages=(*system, Message("user", options.prompt)), **limits)


def expected_tokens(prompt: PreparedPrompt) -> int:
    """Positions that the KV cache will hold: all that were asked for, or what an ordinary answer takes."""
    asked = prompt.request.max_tokens is not None
    return len(prompt.ids) + (prompt.max_tokens if asked else min(prompt.max_tokens, EXPECTED_ANSWER_TOKENS))


def result_of(
    plan: RunPlan, finished: Finished, answer: Answer | None = None, warnings: tuple[str, ...] = ()
) -> RunResult:
    """Return what a run came to; without `answer`, nothing was said. Raises: StructuredOutputFailed."""
    shows_reasoning = answer is not None and not plan.options.hide_reasoning
    return RunResult(
        model=plan.inspection.info.name,
        prompt=plan.options.prompt,
        response=answer.text if answer is not None else "",
        reasoning=answer.reasoning if answer is not None and shows_reasoning else None,
        finish_reason=finished.reason,
        usage=finished.usage,
        tokens_generated=finished.usage.completion_tokens,
        generation_time_s=round(finished.timing.generation_time_s, 6),
        time_to_first_token_s=_rounded(finished.timing.time_to_first_token_s),
        tokens_per_second=round(answer.tokens_per_second, 3) if answer is not None else 0.0,
        parsed=_parsed(plan, answer),
        logprobs=ABSENT if answer is None or answer.logprobs is None else tuple(map(_shown, answer.logprobs)),
        warnings=warnings or ABSENT,
    )


def _parsed(plan: RunPlan, answer: Answer | None) -> Any:
    """The value of a constrained answer. Raises: StructuredOutputFailed where it is none."""
    constraint = plan.options.constraint
    if constraint is None or answer is None or answer.finish_reason == "interrupted":
        return ABSENT
    return value_of(constraint, answer)


def _shown(chosen: ChosenToken) -> ChosenToken:
    """Return a token with its bytes that are no character as U+FFFD: an envelope is text."""
    top = tuple(other._replace(token=shown(other.token)) for other in chosen.top)
    return chosen._replace(token=shown(chosen.token), top=top)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
