"""How long until MLX Knife answers, against a bare interpreter: `--version --json` and `list --json` on one model."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from harness import child_environ
from support.cache_builder import Repo, chat_model
from table import print_table, verdict

REPEATS = 30
SCRIPT = Path(sys.executable).parent / "mlxk2"


def measure(commands: dict[str, list[str]], env: dict[str, str], repeats: int) -> dict[str, list[float]]:
    """Time each command `repeats` times, in turns. Units: milliseconds, process start to exit."""
    times: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(repeats + 1):
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
            if turn:  # the first turn warms the disk's cache
                times[name].append((time.perf_counter() - start) * 1000)
    return times


def main() -> None:
    """Measure and print the table."""
    bare = "python -c pass"
    targets = {"mlxk2 --version --json": 4.0, "mlxk2 list --json (1 model)": 5.0}
    commands = {
        bare: [sys.executable, "-c", "pass"],
        "mlxk2 --version --json": [str(SCRIPT), "--version", "--json"],
        "mlxk2 list --json (1 model)": [str(SCRIPT), "list", "--json"],
    }
    with tempfile.TemporaryDirectory() as folder:
        hub = Path(folder) / "hub"
        Repo(hub, "mlx-community/tiny-Instruct").snapshot(chat_model())
        env = child_environ(HF_HUB_CACHE=str(hub))
        answer = json.loads(
            subprocess.run(commands["mlxk2 list --json (1 model)"], env=env, capture_output=True, check=True).stdout
        )
        if answer["data"]["count"] != 1 or answer["data"]["models"][0]["health"] != "healthy":
            raise SystemExit("the benchmark's cache is not seen as one sound model")
        times = measure(commands, env, REPEATS)
    rows = []
    for name, values in times.items():
        ratio = min(values) / min(times[bare])
        target = targets.get(name)
        wanted = "" if target is None else f"<= {target:g} x: {verdict(ratio <= target)}"
        rows.append((name, f"{min(values):.1f}", f"{median(values):.1f}", f"{ratio:.2f}", wanted))
    print_table(
        f"Start-up, {REPEATS} runs each, in turns", ("command", "min ms", "median ms", "ratio of min", "target"), rows
    )


if __name__ == "__main__":
    main()
