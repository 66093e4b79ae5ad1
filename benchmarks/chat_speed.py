"""How long a chat makes its user wait: time to first token of turn 20 with the kept KV cache, and with a fresh one.

Measured on a tiny model with a history of 4,000 tokens and on the real model (float32). The fresh run reads the same
prompt with the model loaded already, so what is compared is reading alone.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median

import openblas
from harness import real_model
from support.tiny_model import TinyOptions, tiny_model
from table import print_table, verdict

from mlxk2.driving import drain
from mlxk2.inspection.files import ModelFiles
from mlxk2.runner.request import EngineOptions, GenerationRequest, Message, Sampling
from mlxk2.runner.runner import MLXRunner
from mlxk2.store.model_ref import WORKSPACE, ModelRef

TURNS, REPEATS, TARGET = 20, 3, 10.0
WORDS = "And what else is there to see in that town, on a rainy day in winter?"
# A token a byte in the tiny model, and an answer that is read again as the same tokens, as a real model's mostly is.
TINY_ANSWER = (110, Sampling(temperature=0, repetition_penalty=1, logit_bias={72: 100}))
REAL_ANSWER = (24, Sampling(temperature=0))


def main() -> None:
    """Measure both models and print one table."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        options = TinyOptions(context_length=8192, eos_in_tokenizer=None)
        tiny = tiny_model(Path(folder) / "tiny", options)
        rows += measure("tiny", tiny, *TINY_ANSWER)
        rows += measure("SmolLM2-135M float32", real_model(), *REAL_ANSWER)
    headers = (
        "model",
        "history tokens",
        "kept: best ms",
        "median",
        "fresh: best ms",
        "median",
        "times faster",
        "target",
    )
    print_table(f"chat: time to first token of turn {TURNS}, {openblas.note()}", headers, rows)


def measure(name: str, folder: Path, answer_tokens: int, sampling: Sampling) -> list[tuple[str, ...]]:
    """Talk for twenty turns, then take the last one again and again, in turns with a runner that keeps nothing."""
    files = ModelFiles.read(ModelRef(folder.name, folder, None, WORKSPACE))
    kept: list[float] = []
    fresh: list[float] = []
    with MLXRunner(files) as runner, MLXRunner(files, options=EngineOptions(reuse_cache=False)) as plain:
        history: tuple[Message, ...] = ()
        for _ in range(TURNS - 1):
            history = (*history, Message("user", WORDS))
            history = (*history, Message("assistant", ask(runner, history, answer_tokens, sampling)[1]))
        last = (*history, Message("user", WORDS))
        tokens = 0
        for _ in range(REPEATS):
            # Back to the end of turn 19: what turn 20 has read must not help it.
            ask(runner, history[:-1], answer_tokens, sampling)
            kept.append(ask(runner, last, 1, sampling)[0])
            seconds, _, tokens = ask(plain, last, 1, sampling)
            fresh.append(seconds)
    ratio = min(fresh) / min(kept)
    figures = [f"{value * 1000:.1f}" for value in (min(kept), median(kept), min(fresh), median(fresh))]
    return [(name, str(tokens), *figures, f"{ratio:.1f}", f">= {TARGET:g}: {verdict(ratio >= TARGET)}")]


def ask(runner: MLXRunner, messages: tuple[Message, ...], tokens: int, sampling: Sampling) -> tuple[float, str, int]:
    """Return the time to first token in seconds, the answer, and how many tokens the prompt had."""
    request = GenerationRequest(messages=messages, sampling=sampling, max_tokens=tokens)
    answer = drain(runner.generate(request), None)
    return answer.timing.time_to_first_token_s, answer.text, answer.usage.prompt_tokens


if __name__ == "__main__":
    openblas.restarted()
    main()
