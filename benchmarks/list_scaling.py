"""`list --json` over generated caches against `hf cache ls --format json` on the same caches, in turns, in one run."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import child_environ
from support.big_cache import make_big_cache
from table import print_table, verdict

SIZES = (100, 1000, 5000)
REPEATS = 5
TARGET = 2.5
TARGET_SIZE = 1000
# Time per model may differ by this factor between the largest and the middle cache and still count as linear.
LINEAR = 1.3
BIN = Path(sys.executable).parent
OURS = [str(BIN / "mlxk2"), "list", "--json"]
THEIRS = [str(BIN / "hf"), "cache", "ls", "--format", "json"]


def timed(command: list[str], env: dict[str, str]) -> tuple[float, bytes]:
    """Run a command once. Units: seconds from process start to exit."""
    start = time.perf_counter()
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start, done.stdout


def compare(hub: Path, count: int) -> tuple[float, float]:
    """Return the best times of both commands over one cache."""
    env = child_environ(HF_HUB_CACHE=str(hub), HF_HUB_OFFLINE="1")
    ours, theirs = [], []
    for turn in range(REPEATS + 1):
        seconds, answer = timed(OURS, env)
        other, _ = timed(THEIRS, env)
        if turn:  # the first turn warms the disk's cache
            ours.append(seconds)
            theirs.append(other)
        elif json.loads(answer)["data"]["count"] != count:
            raise SystemExit(f"the cache of {count} models is listed as another number")
    return min(ours), min(theirs)


def main() -> None:
    """Measure and print the table."""
    rows, per_model = [], {}
    for count in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            ours, theirs = compare(make_big_cache(Path(folder) / "hub", count), count)
        ratio = theirs / ours
        per_model[count] = ours / count
        wanted = f">= {TARGET} x: {verdict(ratio >= TARGET)}" if count == TARGET_SIZE else ""
        cells = (f"{ours * 1000:.0f}", f"{theirs * 1000:.0f}", f"{ratio:.2f}", f"{per_model[count] * 1000:.3f}", wanted)
        rows.append((count, *cells))
    growth = per_model[SIZES[-1]] / per_model[TARGET_SIZE]
    rows.append(
        (f"{SIZES[-1]} against {TARGET_SIZE}", "", "", "", f"{growth:.2f}", f"linear: {verdict(growth <= LINEAR)}")
    )
    headers = ("models", "mlxk2 list ms", "hf cache ls ms", "times faster", "ms a model", "target")
    print_table(f"Listing a cache, best of {REPEATS}, in turns", headers, rows)


if __name__ == "__main__":
    main()
