"""A thousand requests of every kind, eight at a time: none may fail, and the memory must stay flat all the while.

Memory is what both processes have resident, looked at every 50 ms, whatever is being answered just then; every single
sample must be within 5 % of what it was when the warm-up ended, and that of each process alone as well. The warm-up has
the same mixture, fills the prefix cache, which is kept small, and has the busiest moments that can come: the longest
requests, all at the same time. Then the model is unloaded and loaded again, many times.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread
from urllib.parse import quote

import openblas
from harness import with_template
from mixed_use import TEMPLATE, answer, burst, busiest
from processes import family, resident_bytes
from serve_speed import TINY
from serving_client import Server, ours, request
from support.random_models import random_model
from table import print_table, verdict

REQUESTS, WARM_UP, AT_A_TIME, FLAT = 1000, 240, 8, 0.05
EVERY_S, LOADS, GONE_S = 0.05, 20, 10.0
HEADERS = ("what", "at first", "least", "most", "at last", "target")
Row = tuple[str, ...]


def main() -> None:
    """Send everything and print two tables."""
    with tempfile.TemporaryDirectory() as folder:
        model = with_template(random_model(Path(folder) / "tiny", "llama", config=TINY), TEMPLATE)
        with ours(model, "--prefix-cache-bytes", "16MB") as server:
            load(server)
            load_and_unload(server)


def load(server: Server) -> None:
    """Send the requests, look at the memory from the end of the warm-up on."""
    draw, sent, failed = random.Random(1), 0, []
    watch = Watch(family(server.pid))
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        while sent < WARM_UP + REQUESTS:
            asks = burst(draw, server.model)
            if sent < WARM_UP:
                asks = [*busiest(draw, AT_A_TIME), *asks]
            failed += filter(None, pool.map(lambda ask: answer(server, ask), asks))
            sent += len(asks)
            if sent == WARM_UP:
                watch.start()
    http, engine = watch.stop()
    rows = [flat("both processes", [sum(sizes) for sizes in zip(http, engine)])]
    rows += [flat("HTTP side alone", http), flat("engine alone", engine)]
    rows.append(("requests that failed", "", "", "", str(len(failed)), f"0: {verdict(not failed)}"))
    title = f"serve: resident MB in {len(http)} samples of {REQUESTS} requests of mixed use, {AT_A_TIME} at a time"
    print_table(title, HEADERS, rows)
    for problem in failed[:5]:
        print(problem, file=sys.stderr)


def load_and_unload(server: Server) -> None:
    """Unload and load the model many times: its process must be gone each time, the other one as large as it was."""
    sizes, left, address = [], 0, f"/v1/models/{quote(server.model, safe='')}"
    for _ in range(LOADS):
        assert request(server.port, {}, f"{address}/unload").status == 200
        left += remaining(server)
        sizes.append(resident_bytes(server.pid))
        assert request(server.port, {}, f"{address}/load").status == 200
    gone = ("engines left after an unload", "", "", "", str(left), f"0: {verdict(not left)}")
    print_table(f"serve: resident MB, {LOADS} times unloaded and loaded", HEADERS, [flat("HTTP side", sizes), gone])


def remaining(server: Server) -> int:
    """Return how many children the server keeps, whatever time it is given."""
    end = time.monotonic() + GONE_S
    while len(family(server.pid)) > 1 and time.monotonic() < end:
        time.sleep(EVERY_S)
    return len(family(server.pid)) - 1


def flat(name: str, sizes: Sequence[int]) -> Row:
    """Return the row of a process: every sample is compared with the first one."""
    first, least, most, last = sizes[0], min(sizes), max(sizes), sizes[-1]
    is_flat = most <= first * (1 + FLAT) and least >= first * (1 - FLAT)
    changes = (f"{size / 1e6:.1f} ({size / first - 1:+.1%})" for size in (least, most, last))
    return (name, f"{first / 1e6:.1f}", *changes, f"each within 5 %: {verdict(is_flat)}")


class Watch:
    """Looks at what processes have resident, all the time from `start` to `stop`."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids
        self._samples: list[list[int]] = []
        self._is_over = Event()
        self._thread = Thread(target=self._look)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> list[list[int]]:
        """Return the samples of each process."""
        self._is_over.set()
        self._thread.join()
        return [list(sizes) for sizes in zip(*self._samples)]

    def _look(self) -> None:
        while not self._is_over.is_set():
            self._samples.append([resident_bytes(pid) for pid in self._pids])
            self._is_over.wait(EVERY_S)


if __name__ == "__main__":
    openblas.restarted()
    main()
