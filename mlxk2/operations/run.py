"""`run`: a model answers one prompt.

    plan = prepare(find_model(name, settings), RunOptions(prompt, system, sampling), fast_start=settings.fast_start)
    result = drain(run_model(plan), sink)

`prepare` refuses before a weight is read; `run_model` yields Started, Delta... and Finished, and returns a RunResult.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlxk2 import errors
from mlxk2.events import Event, Finished, Timing, Usage
from mlxk2.inspection.describe import Inspection, inspect_model
from mlxk2.inspection.memory import kv_bytes, memory_need
from mlxk2.runner.limits import EXPECTED_ANSWER_TOKENS, MemoryDemand, check_memory, memory_limit_bytes
from mlxk2.runner.request import GenerationRequest, Message, Sampling
from mlxk2.store.model_ref import ModelRef

if TYPE_CHECKING:
    from mlxk2.runner.runner import Answer, PreparedPrompt


@dataclass(frozen=True)
class RunOptions:
    """What the user asked for; without `use_chat_template` the model reads the prompt as it is."""

    prompt: str
    system: str | None
    sampling: Sampling
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    use_chat_template: bool = True


@dataclass(frozen=True)
class RunPlan:
    """A run that may begin: the model is sound, runnable, and its weights fit."""

    inspection: Inspection
    prompt: str
    request: GenerationRequest
    weights_bytes: int
    memory_limit_bytes: int | None
    fast_start: bool


@dataclass(frozen=True)
class RunResult:
    """The answer. Units: seconds; `tokens_per_second` is the decode rate, the prefill does not count."""

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


def prepare(ref: ModelRef, options: RunOptions, *, fast_start: bool = True, memory_limit: int | None = None) -> RunPlan:
    """Check everything that can be known without reading a weight.

    `memory_limit`: bytes that the model may use; None asks the machine.

    Raises: UsageError, ModelNotFound, ModelUnhealthy, IncompatibleModel, InsufficientMemory.
    """
    request = _request(options)
    inspection = inspect_model(ref)
    _check_runnable(inspection)
    plan = RunPlan(
        inspection=inspection,
        prompt=options.prompt,
        request=request,
        weights_bytes=memory_need(inspection.files).weights_bytes or 0,
        memory_limit_bytes=memory_limit if memory_limit is not None else memory_limit_bytes(),
        fast_start=fast_start,
    )
    _check_memory(plan, request.max_tokens or EXPECTED_ANSWER_TOKENS)
    return plan


def run_model(plan: RunPlan) -> Generator[Event, None, RunResult]:
    """Yield the events of the answer and return the whole.

    KeyboardInterrupt, striking here or thrown in by the consumer, ends it with what was said so far and the
    finish reason "interrupted"; an answer that is complete keeps its own reason.

    Raises: ContextLengthExceeded, InsufficientMemory, IncompatibleModel, GenerationFailed, DependencyMissing.
    """
    from mlxk2.runner.runner import MLXRunner

    runner = MLXRunner(plan.inspection.files, fast_start=plan.fast_start, label=plan.inspection.info.name)
    answer: Answer | None = None
    try:
        with runner:
            prompt = runner.prepare(plan.request)
            _check_memory(plan, _expected_tokens(prompt), runner.recommended_memory_bytes())
            answer = yield from runner.answer(prompt)
    except KeyboardInterrupt:
        # Struck while the model was still being set up, and nothing was said, or while it was put away.
        if answer is None:
            nothing = Finished("interrupted", Usage(0, 0, 0), Timing(None, 0.0))
            yield nothing
            return _result(plan, "", nothing, 0.0)
    return _whole(plan, answer)


def _request(options: RunOptions) -> GenerationRequest:
    limits: dict[str, Any] = {"sampling": options.sampling, "max_tokens": options.max_tokens, "stop": options.stop}
    if not options.use_chat_template:
        if options.system:
            raise errors.UsageError(
                "--system needs the chat template",
                hint="write the system text into the prompt, or drop --no-chat-template",
            )
        return GenerationRequest(prompt=options.prompt, **limits)
    system = (Message("system", options.system),) if options.system else ()
    return GenerationRequest(messages=(*system, Message("user", options.prompt)), **limits)


def _check_runnable(inspection: Inspection) -> None:
    info = inspection.info
    if info.health != "healthy":
        raise errors.ModelUnhealthy(f"{info.name} is broken: {info.reason}", hint=f"mlxk2 health {info.name} --verbose")
    if not info.runtime_compatible:
        raise errors.IncompatibleModel(f"{info.name} cannot be run: {info.reason}", hint=f"mlxk2 show {info.name}")


def _expected_tokens(prompt: PreparedPrompt) -> int:
    """Positions that the KV cache will hold: all that were asked for, or what an ordinary answer takes."""
    asked = prompt.request.max_tokens is not None
    return len(prompt.ids) + (prompt.max_tokens if asked else min(prompt.max_tokens, EXPECTED_ANSWER_TOKENS))


def _check_memory(plan: RunPlan, tokens: int, device_limit: int | None = None) -> None:
    """Hold what `tokens` positions need against the machine, and the device where it is known."""
    limits = [limit for limit in (plan.memory_limit_bytes, device_limit) if limit is not None]
    config = _config(plan.inspection)
    context = plan.inspection.info.context_length
    tokens = min(tokens, context) if context else tokens
    check_memory(MemoryDemand(plan.weights_bytes, kv_bytes(config, tokens) or 0), min(limits, default=None))


def _config(inspection: Inspection) -> Mapping[str, Any]:
    return inspection.files.config or {}


def _whole(plan: RunPlan, answer: Answer) -> RunResult:
    finished = Finished(answer.finish_reason, answer.usage, answer.timing)
    return _result(plan, answer.text, finished, answer.tokens_per_second)


def _result(plan: RunPlan, response: str, finished: Finished, tokens_per_second: float) -> RunResult:
    return RunResult(
        model=plan.inspection.info.name,
        prompt=plan.prompt,
        response=response,
        reasoning=None,
        finish_reason=finished.reason,
        usage=finished.usage,
        tokens_generated=finished.usage.completion_tokens,
        generation_time_s=round(finished.timing.generation_time_s, 6),
        time_to_first_token_s=_rounded(finished.timing.time_to_first_token_s),
        tokens_per_second=round(tokens_per_second, 3),
    )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
