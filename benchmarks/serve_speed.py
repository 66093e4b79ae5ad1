"""How fast `serve` answers: tokens a second at several widths, how soon a short request beside a long one, what is read once.

Against mlx-lm's own server and against a bare loop over its BatchGenerator, on the same model, in turns. The client is
one loop over plain sockets. On a machine with few cores it takes its part of them, and so does the HTTP side.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from operator import truediv
from pathlib import Path
from statistics import median
from typing import Any, Callable

import openblas
from harness import real_model, with_template
from processes import cpu_seconds, family
from serving_client import Call, Server, chat, get, ours, request, stock, together
from support.random_models import random_model
from table import print_table, verdict

WIDTHS = (1, 4, 8, 16)
AGAINST_STOCK = {"tiny": {1: 1.0, 4: 1.2, 8: 1.2, 16: 1.2}, "real": dict.fromkeys(WIDTHS, 1.0)}
AGAINST_BARE = 0.9
TINY_TOKENS, TINY_REPEATS, REAL_TOKENS, REAL_REPEATS = 256, 7, 48, 5
SHORT_REPEATS, SEEDED_STOCK_REPEATS, SHORT_TOKENS, LATER_MS, SEEDED_TIMES = 15, 2, 4, 100.0, 2.0
CLIENTS, IDLE_S, IDLE_PART = 8, 10.0, 0.01
TINY = {
    "hidden_size": 128, "num_hidden_layers": 4, "intermediate_size": 512, "head_dim": 32, "max_position_embeddings": 32768,
}  # fmt: skip
# Without a token that ends a turn: random weights would soon say it, and not all that is compared here heeds it.
TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant: "


def main() -> None:
    """Measure everything and print the tables."""
    given = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    kinds = given or ["tiny", "real"]
    with tempfile.TemporaryDirectory() as folder:
        tiny = with_template(random_model(Path(folder) / "tiny", "llama", config=TINY), TEMPLATE)
        if "tiny" in kinds:
            measure("tiny", tiny, TINY_TOKENS, TINY_REPEATS)
        if "real" in kinds:
            measure("real", real_model(), REAL_TOKENS, REAL_REPEATS)


def measure(kind: str, model: Path, tokens: int, repeats: int) -> None:
    """Start both servers on a model, and compare."""
    bare = BareLoop(model)
    with ours(model) as mine, stock(model) as theirs:
        throughput_table(kind, (mine, theirs), bare, tokens, repeats)
        if kind == "tiny":
            promptness_table(mine, theirs)
    if kind == "tiny":
        # With nothing read before.
        with ours(model) as mine:
            sharing_table(mine)


# --- tokens a second ---------------------------------------------------------------------------------------------


def throughput_table(kind: str, servers: Sequence[Server], bare: BareLoop, tokens: int, repeats: int) -> None:
    """Print tokens a second at each width. Ratios are medians of those of each turn.

    mlx-lm's server is now and then half as fast again as it usually is, so its best turn says little.
    """
    rows = []
    for width in WIDTHS:
        loops: dict[str, Callable[[list[str]], float]] = {
            **{server.name: lambda texts, port=server.port: served(port, texts, tokens) for server in servers},
            "BatchGenerator": lambda texts: bare.speed(texts, tokens),
        }
        speeds: dict[str, list[float]] = {name: [] for name in loops}
        for turn in range(repeats + 1):
            # Nobody has read these before, and who goes first changes.
            texts = [f"{turn} {number} of {width}: tell a story" for number in range(width)]
            for name in sorted(loops, reverse=bool(turn % 2)):
                speeds[name].append(loops[name](texts))
        mine, theirs, raw = (values[1:] for values in speeds.values())
        of_stock, of_bare = (median(map(truediv, mine, others)) for others in (theirs, raw))
        wanted = AGAINST_STOCK[kind][width]
        met = of_stock >= wanted and of_bare >= AGAINST_BARE
        rows.append(
            (
                str(width),
                *(f"{median(values):.1f} ({max(values):.1f})" for values in (mine, theirs, raw)),
                f"{of_stock:.2f}",
                f"{of_bare:.2f}",
                f">= {wanted:g}, >= {AGAINST_BARE:g}: {verdict(met)}",
            )
        )
    name = "tiny model" if kind == "tiny" else "SmolLM2-135M float32"
    headers = ("streams", *speeds, "of mlx_lm.server", "of BatchGenerator", "target")
    print_table(f"serve: tokens/s, median (best), {name}, {openblas.note()}", headers, rows)


def served(port: int, texts: Sequence[str], tokens: int) -> float:
    """Return tokens a second of so many streams."""
    start = time.perf_counter()
    replies = together(port, [chat(text, tokens) for text in texts])
    seconds = time.perf_counter() - start
    return counted(sum(reply.usage["completion_tokens"] for reply in replies), seconds, len(texts) * tokens)


def counted(found: int, seconds: float, wanted: int) -> float:
    """Return a rate; an answer that ended soon would compare something else."""
    if found != wanted:
        raise SystemExit(f"{found} tokens came of {wanted}")
    return found / seconds


class BareLoop:
    """mlx-lm's BatchGenerator and nothing else: no text, no HTTP."""

    def __init__(self, model: Path) -> None:
        from mlx_lm.utils import load

        self._model, self._tokenizer = load(str(model))[:2]

    def speed(self, texts: Sequence[str], tokens: int) -> float:
        """Return tokens a second."""
        from mlx_lm.generate import BatchGenerator

        start = time.perf_counter()
        stops = [[token] for token in self._tokenizer.eos_token_ids if token is not None]
        generator: Any = BatchGenerator(self._model, stop_tokens=stops)
        prompts = [self._ids(text) for text in texts]
        generator.insert(prompts, [tokens] * len(prompts))
        found = 0
        while responses := generator.next_generated():
            found += len(responses)
        seconds = time.perf_counter() - start
        generator.close()
        return counted(found, seconds, len(texts) * tokens)

    def _ids(self, text: str) -> list[int]:
        message = [{"role": "user", "content": text}]
        return list(self._tokenizer.apply_chat_template(message, add_generation_prompt=True))


# --- a short request beside a long one ---------------------------------------------------------------------------


def promptness_table(mine: Server, theirs: Server) -> None:
    """Print how long a short request takes, alone and beside a long one."""
    rows = []
    for server in (mine, theirs):
        alone = [short(server, turn) for turn in range(SHORT_REPEATS)]
        beside = beside_long(server, SHORT_REPEATS)
        # The other one answers a request with a seed after all the others.
        seeded = beside_long(server, SHORT_REPEATS if server is mine else SEEDED_STOCK_REPEATS, seed=7, temperature=1)
        later, times = median(beside) - median(alone), median(seeded) / median(beside)
        targets = (
            f"<= {LATER_MS:g} ms: {verdict(later <= LATER_MS)}; <= {SEEDED_TIMES:g} x: {verdict(times <= SEEDED_TIMES)}"
        )
        figures = (median(alone), median(beside), later, median(seeded))
        rows.append(
            (server.name, *(f"{value:.1f}" for value in figures), f"{times:.2f}", targets if server is mine else "")
        )
    headers = ("server", "alone ms", "beside ms", "later ms", "with a seed ms", "times", "target")
    print_table(f"serve: {SHORT_TOKENS} tokens beside a long answer, median, tiny model", headers, rows)


def short(server: Server, turn: int, **more: Any) -> float:
    """Return the milliseconds of one short request."""
    reply = request(server.port, chat(f"{turn} {sorted(more)}", SHORT_TOKENS, **more))
    assert reply.status == 200
    return reply.seconds * 1000


def beside_long(server: Server, repeats: int, **more: Any) -> list[float]:
    """Return the milliseconds of short requests while one long answer streams, each of them beside one."""
    times = []
    for turn in range(repeats):
        long = Call(server.port, chat(f"a long one {turn}", 4000))
        long.begin()
        times.append(short(server, turn, **more))
        long.socket.close()
    return times


# --- what is shared, and what nothing costs -----------------------------------------------------------------------


def sharing_table(mine: Server) -> None:
    """Print how often a common beginning is read, and what an idle server costs."""
    before = tokens_of(mine, "prompt"), tokens_of(mine, "cached")
    prefix = "You know everything about the sea and its animals. " * 60
    replies = together(mine.port, [chat(f"{prefix} Question {number}", 8) for number in range(CLIENTS)])
    longest = max(reply.usage["prompt_tokens"] for reply in replies)
    read = (tokens_of(mine, "prompt") - before[0]) - (tokens_of(mine, "cached") - before[1])
    rows = [
        (f"tokens read for {CLIENTS} prompts of {longest}", str(read), f"<= 1.2 x: {verdict(read <= 1.2 * longest)}")
    ]
    time.sleep(2)
    start = cpu_seconds(family(mine.pid))
    time.sleep(IDLE_S)
    part = (cpu_seconds(family(mine.pid)) - start) / IDLE_S
    rows.append(
        ("CPU of an idle server, both processes", f"{part:.2%}", f"< {IDLE_PART:.0%}: {verdict(part < IDLE_PART)}")
    )
    print_table("serve: shared and idle", ("what", "figure", "target"), rows)


def tokens_of(server: Server, kind: str) -> int:
    """Return a count of /metrics."""
    marker = f'mlxk2_tokens_total{{kind="{kind}"}} '
    lines = get(server.port, "/metrics").decode().splitlines()
    return int(float(next(line[len(marker) :] for line in lines if line.startswith(marker))))


if __name__ == "__main__":
    openblas.restarted()
    main()
