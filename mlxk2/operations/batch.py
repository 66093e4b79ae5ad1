"""`run --input`: a model answers a file of prompts, side by side, into a file of answers.

    plan = plan_batch(find_model(name, settings), options, BatchFiles(source, target))
    result = drain(run_batch(plan), sink)

`plan_batch` reads both files whole and refuses before a weight is read; `run_batch` yields Started, Progress of
prompts and Warned, and returns a BatchResult. What has an answer is not asked again; what failed is.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Union

from mlxk2 import envelope
from mlxk2.envelope import ABSENT
from mlxk2.errors import MlxkError, UsageError
from mlxk2.events import Event, Progress, Started, Usage, Warned
from mlxk2.operations.batch_answers import AnswersFile, AnswersState, AskedFor
from mlxk2.operations.batch_ledger import Ledger
from mlxk2.operations.batch_prompts import PromptFile, PromptLine, fingerprint
from mlxk2.operations.run import RunOptions, RunPlan, expected_tokens, prepare, request_of, result_of
from mlxk2.operations.run_memory import MemoryPlan
from mlxk2.store.model_ref import ModelRef

if TYPE_CHECKING:
    from mlxk2.runner.answer import Answer, PreparedPrompt
    from mlxk2.runner.request import GenerationRequest

DEFAULT_WIDTH, _LARGEST_WIDTH = 32, 1024

# As many as one likes.
_NO_LIMIT = 2**31
# mlx-lm's caches grow by so many positions: what is known of one number of positions holds for its neighbours.
_POSITIONS_STEP = 256


@dataclass(frozen=True)
class BatchFiles:
    """Where prompts come from and answers go; at most `width` are answered at a time.

    Raises: UsageError for a width that makes no sense.
    """

    source: Path
    target: Path
    width: int = DEFAULT_WIDTH

    def __post_init__(self) -> None:
        if not 1 <= self.width <= _LARGEST_WIDTH:
            raise UsageError(f"--batch-size must be between 1 and {_LARGEST_WIDTH}, not {self.width}")


@dataclass(frozen=True)
class BatchPlan:
    """A batch that may begin: every prompt is readable, the model runnable. `close` it if it does not."""

    run: RunPlan
    files: BatchFiles
    prompts: PromptFile
    answers: AnswersState
    ledger: Ledger

    def close(self) -> None:
        """Forget the prompts."""
        self.ledger.close()


@dataclass(frozen=True)
class BatchResult:
    """What a batch came to. Of `total` prompts `skipped` had an answer before; `remaining` were not asked any more.

    `usage` counts what this batch did, `tokens_per_second` is its tokens of answers in its whole time, prefill included;
    `batch_size` is how many were answered at a time; `warnings` is there where there is one. Units: seconds.
    """

    model: str
    input: str
    output: str
    total: int
    answered: int
    failed: int
    skipped: int
    remaining: int
    batch_size: int
    usage: Usage
    generation_time_s: float
    tokens_per_second: float
    warnings: tuple[str, ...] = ABSENT


def plan_batch(
    ref: ModelRef,
    options: RunOptions,
    files: BatchFiles,
    *,
    fast_start: bool = True,
    memory_limit: int | None = None,
) -> BatchPlan:
    """Check both files and everything that a single run checks. `options.prompt` is not used.

    Raises: UsageError naming the line, and what `run.prepare` raises.
    """
    if not files.source.exists():
        raise UsageError(f"--input: there is no file {files.source}")
    run = prepare(ref, options, fast_start=fast_start, memory_limit=memory_limit)
    prompts = PromptFile(files.source, needs_text=not options.use_chat_template)
    ledger = Ledger()
    with ExitStack() as undo:
        undo.callback(ledger.close)
        prompts.check(ledger)
        answers = AnswersFile.look(files.target, files.source, ref, ledger, _fingerprint(options))
        undo.pop_all()
    return BatchPlan(run, files, prompts, answers, ledger)


def run_batch(plan: BatchPlan) -> Generator[Event, None, BatchResult]:
    """Answer what has no answer yet, yielding progress; return the summary.

    KeyboardInterrupt ends it: answers that are complete stay, `remaining` tells how many are not.

    Raises: OutputFailed, IncompatibleModel, DependencyMissing, UsageError where the file of prompts has changed.
    """
    tally = _Tally(plan)
    try:
        yield Started(label=plan.run.inspection.info.name)
        for message in plan.answers.warnings:
            yield tally.warned(message)
        yield tally.progress()
        with AnswersFile(plan.files.target, plan.answers, plan.ledger) as answers:
            yield from _answer(plan, answers, tally)
    except KeyboardInterrupt:
        # Every answer that was complete is in the file.
        pass
    finally:
        result = tally.result()
        plan.close()
    return result


class _Tally:
    """Counts what becomes of the prompts."""

    def __init__(self, plan: BatchPlan) -> None:
        self._plan = plan
        self._total, self._skipped = plan.ledger.count(), plan.ledger.count_answered()
        self._start = time.perf_counter()
        self._answered = self._failed = 0
        self._prompt_tokens = self._answer_tokens = self._cached_tokens = 0
        self._warnings: list[str] = []
        self.batch_size = 0

    def begin(self) -> None:
        """The model is loaded: the time runs from now on."""
        self._start = time.perf_counter()

    def add(self, usage: Usage | None, *, failed: bool) -> None:
        """Count one prompt."""
        self._failed += failed
        self._answered += not failed
        if usage is not None:
            self._prompt_tokens += usage.prompt_tokens
            self._answer_tokens += usage.completion_tokens
            self._cached_tokens += usage.cached_tokens

    def warned(self, message: str) -> Warned:
        """Keep a warning for the summary."""
        self._warnings.append(message)
        return Warned(message)

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to do."""
        return self.progress().done == self._total

    def progress(self) -> Progress:
        """How far the batch is."""
        return Progress(self._skipped + self._answered + self._failed, self._total, "prompts")

    def result(self) -> BatchResult:
        """The summary."""
        seconds = time.perf_counter() - self._start
        tokens = self._prompt_tokens + self._answer_tokens
        return BatchResult(
            model=self._plan.run.inspection.info.name,
            input=str(self._plan.files.source),
            output=str(self._plan.files.target),
            total=self._total,
            answered=self._answered,
            failed=self._failed,
            skipped=self._skipped,
            remaining=self._total - self._skipped - self._answered - self._failed,
            batch_size=self.batch_size,
            usage=Usage(self._prompt_tokens, self._answer_tokens, tokens, self._cached_tokens),
            generation_time_s=round(seconds, 6),
            tokens_per_second=round(self._answer_tokens / seconds, 3) if seconds > 0 else 0.0,
            warnings=tuple(self._warnings) or ABSENT,
        )


class _Room:
    """What the machine has room for, as far as the plan of a single run knows it."""

    def __init__(self, memory: MemoryPlan, device_limit: int | None) -> None:
        self._memory = memory
        self._device_limit = device_limit
        self._known: dict[int, int] = {}

    def expected(self, prompt: PreparedPrompt) -> int:
        """Positions that prompt and answer will take."""
        return expected_tokens(prompt)

    def rows(self, positions: int) -> int:
        """How many such sequences fit."""
        steps = -(-positions // _POSITIONS_STEP)
        if steps not in self._known:
            found = self._memory.rows(steps * _POSITIONS_STEP, self._device_limit)
            self._known[steps] = _NO_LIMIT if found is None else found
        return self._known[steps]

    def check(self, positions: int) -> None:
        """Raises: InsufficientMemory."""
        self._memory.check(positions, self._device_limit)


def _answer(plan: BatchPlan, answers: AnswersFile, tally: _Tally) -> Iterator[Event]:
    from mlxk2.runner.batch import BatchRun
    from mlxk2.runner.runner import MLXRunner

    inspection, options = plan.run.inspection, plan.run.options
    name = inspection.info.name
    if tally.is_complete:
        return
    with MLXRunner(inspection.files, fast_start=plan.run.fast_start, label=name, options=options.engine) as runner:
        room = _Room(plan.run.memory, runner.recommended_memory_bytes())
        batch = BatchRun(runner, _requests(plan), room, plan.files.width)
        runner.engine()
        tally.begin()
        with closing(batch.run()) as outcomes:
            for event in outcomes:
                if isinstance(event, Warned):
                    yield tally.warned(event.message)
                    continue
                answers.append(_line(plan, event.key, event.outcome, tally))
                tally.batch_size = batch.most_rows
                yield tally.progress()


def _requests(plan: BatchPlan) -> Iterator[tuple[PromptLine, GenerationRequest]]:
    for line in plan.prompts.lines():
        if not plan.ledger.knows(line.id):
            raise UsageError(f"{plan.files.source} has changed while it was read: start again")
        if not plan.ledger.is_answered(line.id):
            yield line, request_of(replace(plan.run.options, prompt=line.question), line.messages)


def _line(plan: BatchPlan, line: PromptLine, outcome: Union[Answer, MlxkError], tally: _Tally) -> str:
    """Return the envelope that answers one prompt, and count it."""
    usage = None
    try:
        if isinstance(outcome, MlxkError):
            raise outcome
        usage = outcome.usage
        run = replace(plan.run, options=replace(plan.run.options, prompt=line.question))
        result = result_of(run, outcome.finished, outcome)
        asked = AskedFor(line.fingerprint, _fingerprint(plan.run.options))
        answer = envelope.success("run", {"id": line.id, **vars(result), "asked": asked})
    except MlxkError as error:
        error.extra["id"] = line.id
        answer = envelope.failure("run", error)
    tally.add(usage, failed=answer["error"] is not None)
    return envelope.to_json(answer, one_line=True)


def _fingerprint(options: RunOptions) -> str:
    """A text that is another one where the answers may be, besides for other prompts."""
    engine = replace(options.engine, wire_memory=False, reuse_cache=True, trust_remote_code=False)
    shaping = replace(options, prompt="", engine=engine, prompt_cache=None, hide_reasoning=False, force=False)
    return fingerprint(repr(shaping))
