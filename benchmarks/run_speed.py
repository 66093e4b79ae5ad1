"""How fast `run` is: decoding against mlx-lm's own loop, and process start to first token against `mlx_lm.generate`.

Decoding is measured on a tiny model, where everything that is not the model's own arithmetic weighs most, or on a folder
given as the first argument; the start on a tiny and on the real model (float32).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import openblas
from harness import child_environ, real_model
from support.tiny_model import TinyOptions, scripted_model, tiny_model
from table import print_table, verdict

BIN = Path(sys.executable).parent
DECODE_TOKENS, DECODE_REPEATS, START_REPEATS = 250, 16, 8
DECODE_TARGET, START_TARGET, REAL_START_TARGET = 0.97, 3.0, 1.8
ANSWER = "Hello there, this is the answer of a tiny model."
QUESTION, REAL_ANSWER = "What is the capital of France?", "The capital of France is Paris."


def main() -> None:
    """Measure both and print two tables."""
    given = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    with tempfile.TemporaryDirectory() as folder:
        endless = TinyOptions(context_length=4096, eos_in_tokenizer=None)
        model = Path(given[0]) if given else tiny_model(Path(folder) / "decode", endless)
        decode_table(model, tokens=40 if given else DECODE_TOKENS)
        start_table("tiny model", scripted_model(Path(folder) / "start", ANSWER), ANSWER, START_TARGET)
    start_table(f"SmolLM2-135M float32, {blas()}", real_model(), REAL_ANSWER, REAL_START_TARGET)


def decode_table(folder: Path, tokens: int) -> None:
    """Compare decode speeds, in turns, in this process."""
    from mlx_lm.utils import load

    from mlxk2.inspection.files import ModelFiles
    from mlxk2.runner.runner import MLXRunner
    from mlxk2.store.model_ref import WORKSPACE, ModelRef

    model, tokenizer = load(str(folder))
    files = ModelFiles.read(ModelRef(folder.name, folder, None, WORKSPACE))
    speeds: dict[str, list[float]] = {"mlx-lm stream_generate": [], "mlxk2 MLXRunner": []}
    with MLXRunner(files) as runner:
        loops = {
            "mlx-lm stream_generate": lambda: stock_speed(model, tokenizer, tokens),
            "mlxk2 MLXRunner": lambda: our_speed(runner, tokens),
        }
        for turn in range(DECODE_REPEATS + 1):
            # Who goes first changes, so that neither always finds the machine warm.
            for name in sorted(loops, reverse=bool(turn % 2)):
                speeds[name].append(loops[name]())
    stock, ours = (max(values[1:]) for values in speeds.values())
    rows = [(name, f"{max(v[1:]):.1f}", f"{median(v[1:]):.1f}") for name, v in speeds.items()]
    ratio = ours / stock
    rows.append(("ratio of the best", f"{ratio:.3f}", f">= {DECODE_TARGET}: {verdict(ratio >= DECODE_TARGET)}"))
    print_table(f"run: decode speed, {tokens} tokens, same sampling", ("loop", "best tokens/s", "median"), rows)


def stock_speed(model: Any, tokenizer: Any, tokens: int) -> float:
    """Return tokens per second of mlx-lm's loop, from the first token on."""
    import mlx.core as mx
    from mlx_lm import stream_generate
    from mlx_lm.sample_utils import make_logits_processors, make_sampler

    mx.random.seed(1)
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], add_generation_prompt=True)
    sampler = make_sampler(temp=0.7, top_p=0.9)
    processors = make_logits_processors(repetition_penalty=1.1)
    answer = stream_generate(model, tokenizer, chat, max_tokens=tokens, sampler=sampler, logits_processors=processors)
    return rate(part.text for part in answer)


def our_speed(runner: Any, tokens: int) -> float:
    """Return tokens per second of our generator, from the first piece of text on."""
    from mlxk2.runner.request import GenerationRequest, Message, Sampling

    request = GenerationRequest(messages=(Message("user", "hi"),), sampling=Sampling(seed=1), max_tokens=tokens)
    steps = runner.generate(request)
    next(steps)
    start, finished = None, None
    for event in steps:
        start = start or time.perf_counter()
        finished = event
    assert start is not None and finished is not None
    return float((finished.usage.completion_tokens - 1) / (time.perf_counter() - start))


def rate(parts: Iterator[str]) -> float:
    """Return parts per second after the first."""
    next(parts)
    start = time.perf_counter()
    return sum(1 for _ in parts) / (time.perf_counter() - start)


def start_table(name: str, folder: Path, answer: str, target: float) -> None:
    """Compare process start to first token, in turns."""
    greedy = ["--temperature", "0", "--repetition-penalty", "1"]
    commands = {
        "mlx_lm.generate": [
            str(BIN / "mlx_lm.generate"), "--model", str(folder), "--prompt", QUESTION, "--max-tokens", "8",
        ],
        "mlxk2 run": [str(BIN / "mlxk2"), "run", str(folder), QUESTION, "--max-tokens", "8", *greedy],
    }  # fmt: skip
    times: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(START_REPEATS + 1):
        for command in commands:
            seconds = first_text(commands[command], answer[:4].encode())
            if turn:  # the first turn warms the disk's cache
                times[command].append(seconds * 1000)
    stock, ours = (min(values) for values in times.values())
    rows = [(command, f"{min(v):.0f}", f"{median(v):.0f}") for command, v in times.items()]
    ratio = stock / ours
    rows.append(("times faster", f"{ratio:.2f}", f">= {target:g}: {verdict(ratio >= target)}"))
    print_table(f"run: process start to first token, {name}", ("command", "best ms", "median"), rows)


def first_text(command: list[str], beginning: bytes) -> float:
    """Return the seconds until the beginning of the answer is on stdout."""
    environ = child_environ(**openblas.preload())
    start = time.perf_counter()
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.stdout is not None
        seen = b""
        while beginning not in seen:
            part = child.stdout.read1()
            if not part:
                raise SystemExit(f"{command[0]} gave no answer")
            seen += part
        seconds = time.perf_counter() - start
        child.stdout.read()
    return seconds


def blas() -> str:
    """Say which BLAS the children compute with."""
    return "OpenBLAS" if openblas.preload() else "the system's BLAS"


if __name__ == "__main__":
    main()
