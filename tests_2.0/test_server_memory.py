"""What a server keeps resident, request after request."""

from __future__ import annotations

import os
import signal
import sys
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from support.processes import wait_until
from support.random_models import random_model
from support.real_server import MARKS, RealServer, real_server, said

pytestmark = [
    *MARKS,
    pytest.mark.skipif(sys.platform != "linux", reason="it is glibc's malloc that gives back and takes again"),
]

CONFIG = {
    "hidden_size": 128, "num_hidden_layers": 4, "intermediate_size": 512, "head_dim": 32, "max_position_embeddings": 4096,
}  # fmt: skip
WIDE, NARROW, ROUNDS = 8, 2, 4


def resident(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Rss:")) * 1024


def ask(server: RealServer, turn: str) -> None:
    text = f"{turn}: " + "the sea and the bread " * 40
    said(server.chat(messages=[{"role": "user", "content": text}], max_tokens=24, temperature=0))


def loads(server: RealServer) -> int:
    told = server.status()
    return int(told["running"]) + int(told["waiting"])


def test_memory_stays_as_it_is_while_requests_come_and_go(tmp_path: Path) -> None:
    model = random_model(tmp_path / "tiny", "llama", config=CONFIG)
    with real_server(model, words=("--prefix-cache-bytes", "4MB")) as server, ThreadPoolExecutor(WIDE) as pool:
        engine = server.engine()
        sizes: list[int] = []

        def together(count: int, turn: int) -> None:
            # The engine finds them all: how many prompts it reads at a time is the same in each turn.
            os.kill(engine, signal.SIGSTOP)
            asked: set[Future[None]] = {pool.submit(ask, server, f"{turn} {count} {number}") for number in range(count)}
            wait_until(lambda: loads(server) == count, "they have been handed over")
            os.kill(engine, signal.SIGCONT)
            while asked:
                sizes.append(resident(engine))
                done, asked = wait(asked, timeout=0.02)
                for one in done:
                    one.result()

        for turn in range(ROUNDS):
            together(WIDE, -turn)
        sizes.clear()
        for turn in range(1, ROUNDS + 1):
            together(NARROW, turn)
            together(WIDE, turn)
        assert len(sizes) > ROUNDS
        assert min(sizes) >= 0.95 * sizes[0], [size >> 20 for size in sizes]
        assert max(sizes) <= 1.05 * sizes[0], [size >> 20 for size in sizes]
