"""How much faster a batch of prompts is answered side by side than one after the other, on the real model in float32.

Both ways in turns in this process, with the model loaded and prefill counted; one after the other keeps its KV cache
from one prompt to the next, as `run` does, and answers the first of the same prompts.
"""

from __future__ import annotations

import time
from statistics import median

import openblas
from harness import real_model
from table import print_table, verdict

from mlxk2.driving import drain
from mlxk2.inspection.files import ModelFiles
from mlxk2.runner.answer import Answer, PreparedPrompt
from mlxk2.runner.batch import BatchRun, Done
from mlxk2.runner.request import GenerationRequest, Message, Sampling
from mlxk2.runner.runner import MLXRunner
from mlxk2.store.model_ref import WORKSPACE, ModelRef

PROMPTS, ONE_BY_ONE, TOKENS, REPEATS, TARGET = 32, 4, 24, 3, 4.0
THINGS = ("the moon", "bread", "a violin", "Paris", "glass", "the Nile", "chess", "honey")
ASKS = ("What is {}?", "Tell me something about {} that few people know.", "Who likes {}, and why?", "Write on {}.")
KINDS = {
    "greedy": Sampling(temperature=0, repetition_penalty=1),
    "default sampling": Sampling(seed=1),
}


class _Space:
    """Room for everything."""

    def expected(self, prompt: PreparedPrompt) -> int:
        return len(prompt.ids) + prompt.max_tokens

    def rows(self, positions: int) -> int:
        return PROMPTS + 1

    def check(self, positions: int) -> None:
        """It fits."""


def main() -> None:
    """Measure and print one table."""
    folder = real_model()
    files = ModelFiles.read(ModelRef(folder.name, folder, None, WORKSPACE))
    rows = []
    with MLXRunner(files) as runner:
        for name, sampling in KINDS.items():
            rows.append(compare(runner, name, sampling))
    headers = (
        "sampling",
        "one by one: best tokens/s",
        "median",
        f"batch of {PROMPTS}: best",
        "median",
        "times",
        "target",
    )
    print_table(f"batch: {PROMPTS} prompts, SmolLM2-135M float32, {openblas.note()}", headers, rows)


def compare(runner: MLXRunner, name: str, sampling: Sampling) -> tuple[str, ...]:
    """Return a row of the table: both ways in turns, the best of each."""
    given = requests(sampling)
    alone: list[float] = []
    together: list[float] = []
    one_by_one(runner, given[:1])
    for _ in range(REPEATS):
        alone.append(one_by_one(runner, given[:ONE_BY_ONE]))
        together.append(side_by_side(runner, given))
    ratio = max(together) / max(alone)
    figures = [f"{value:.1f}" for value in (max(alone), median(alone), max(together), median(together))]
    return (name, *figures, f"{ratio:.1f}", f">= {TARGET:g}: {verdict(ratio >= TARGET)}")


def requests(sampling: Sampling) -> list[GenerationRequest]:
    """Different questions, of different lengths."""
    texts = [ask.format(thing) for thing in THINGS for ask in ASKS]
    return [
        GenerationRequest(messages=(Message("user", text),), sampling=sampling, max_tokens=TOKENS)
        for text in texts[:PROMPTS]
    ]


def one_by_one(runner: MLXRunner, given: list[GenerationRequest]) -> float:
    """Return tokens of answers per second."""
    start = time.perf_counter()
    answers = [drain(runner.generate(request), None) for request in given]
    return sum(answer.usage.completion_tokens for answer in answers) / (time.perf_counter() - start)


def side_by_side(runner: MLXRunner, given: list[GenerationRequest]) -> float:
    """Return tokens of answers per second."""
    start = time.perf_counter()
    run = BatchRun(runner, enumerate(given), _Space(), PROMPTS)
    answers = [event.outcome for event in run.run() if isinstance(event, Done) and isinstance(event.outcome, Answer)]
    seconds = time.perf_counter() - start
    if run.most_rows < PROMPTS or len(answers) < PROMPTS:
        raise SystemExit(f"no batch: {run.most_rows} at a time, {len(answers)} answers")
    return sum(answer.usage.completion_tokens for answer in answers) / seconds


if __name__ == "__main__":
    openblas.restarted()
    main()
