"""`mlxk2 pull` against `hf download` (Xet off) from one loopback Hub: wall time, peak memory, a slow storage, a resume."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

from harness import child_environ
from support.cache_builder import chat_model, safetensors_header
from support.hub_server import HubServer
from table import print_table, verdict

MEBIBYTE = 1 << 20
LARGE_BYTES = 500 * 10**6
REPEATS = 5
SLOW_BYTES_A_SECOND = 20 * 10**6
MOST_MEGABYTES = 150
BIN = Path(sys.executable).parent


class Run(NamedTuple):
    """One download. Units: seconds, megabytes."""

    wall_s: float
    peak_mb: float


def weights(path: Path, size_bytes: int) -> None:
    """Write a sound weight file of random bytes."""
    header = safetensors_header({"model.embed_tokens.weight": ("U8", [size_bytes])}, {"format": "mlx"})
    with path.open("wb") as file:
        file.write(header)
        for start in range(0, size_bytes, MEBIBYTE):
            file.write(os.urandom(min(MEBIBYTE, size_bytes - start)))


def models(root: Path) -> dict[str, Path]:
    """Make what is downloaded: one large file, eight of middle size, three hundred small ones."""
    folders = {name: root / name for name in ("1 x 500 MB", "8 x 50 MB", "300 small")}
    for folder in folders.values():
        folder.mkdir(parents=True)
        for name, content in chat_model().items():
            (folder / name).write_bytes(content)
    weights(folders["1 x 500 MB"] / "model.safetensors", LARGE_BYTES)
    for number in range(8):
        weights(folders["8 x 50 MB"] / f"model-{number}.safetensors", 50 * 10**6)
    for number in range(300):
        (folders["300 small"] / f"{number}.txt").write_bytes(os.urandom(3000))
    return folders


def repo_of(title: str) -> str:
    return "org/" + title.replace(" ", "-")


@contextmanager
def hub_process(store: Path, folders: dict[str, Path], rate: int | None = None) -> Iterator[str]:
    """Run the loopback Hub as a process of its own; gives its address."""
    command = [sys.executable, "-m", "support.hub_server", "--store", str(store)]
    for title, folder in folders.items():
        command += ["--seed", f"{repo_of(title)}={folder}"]
    if rate is not None:
        command += ["--rate", str(rate)]
    env = child_environ(PYTHONPATH=str(Path(__file__).resolve().parent.parent / "tests_2.0"))
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield next(word for word in server.stdout.readline().split() if word.startswith("http://"))
        finally:
            server.terminate()


def download(command: list[str], endpoint: str, home: Path) -> Run:
    """Download into a cache that is not there yet."""
    shutil.rmtree(home, ignore_errors=True)
    env = child_environ(
        HF_HOME=str(home),
        HF_ENDPOINT=endpoint,
        HF_HUB_DISABLE_XET="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_HUB_DISABLE_UPDATE_CHECK="1",
    )
    start = time.perf_counter()
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    unit = 1 if sys.platform == "darwin" else 1024
    return Run(wall, used.ru_maxrss * unit / 1e6)


def in_turns(title: str, endpoint: str, home: Path, repeats: int) -> tuple[list[Run], list[Run]]:
    """Download the same model with both commands, in turns; the first turn warms the disk's cache."""
    theirs, ours = [], []
    for _ in range(repeats + 1):
        theirs.append(download([str(BIN / "hf"), "download", repo_of(title)], endpoint, home))
        ours.append(download([str(BIN / "mlxk2"), "pull", repo_of(title), "--json"], endpoint, home))
    return theirs[1:], ours[1:]


def row(title: str, theirs: list[Run], ours: list[Run], target: str, met: bool) -> tuple[str, ...]:
    best_theirs, best_ours = min(run.wall_s for run in theirs), min(run.wall_s for run in ours)
    return (
        title,
        f"{best_theirs:.2f} ({median(run.wall_s for run in theirs):.2f})",
        f"{best_ours:.2f} ({median(run.wall_s for run in ours):.2f})",
        f"{best_ours / best_theirs:.2f}",
        f"{max(run.peak_mb for run in theirs):.0f}",
        f"{max(run.peak_mb for run in ours):.0f}",
        f"{target}: {verdict(met)}",
    )


def compare(root: Path, folders: dict[str, Path]) -> list[tuple[str, ...]]:
    """Both commands, at full speed and with a storage that gives each connection 20 MB/s."""
    rows = []
    with hub_process(root / "store", folders) as endpoint:
        for title in folders:
            theirs, ours = in_turns(title, endpoint, root / "cache", REPEATS)
            ratio = min(run.wall_s for run in ours) / min(run.wall_s for run in theirs)
            met = ratio <= 1 and max(run.peak_mb for run in ours) <= MOST_MEGABYTES
            rows.append(row(title, theirs, ours, f"<= 1, <= {MOST_MEGABYTES} MB", met))
    with hub_process(root / "store", {}, SLOW_BYTES_A_SECOND) as endpoint:
        title = "1 x 500 MB"
        theirs, ours = in_turns(title, endpoint, root / "cache", 1)
        met = min(run.wall_s for run in theirs) >= 3 * min(run.wall_s for run in ours)
        rows.append(row(f"{title}, 20 MB/s a connection", theirs, ours, "<= 0.33", met))
    return rows


def resume(root: Path) -> tuple[str, ...]:
    """Kill a pull when half is there, pull again, and count what the server sends then."""
    name = repo_of("1 x 500 MB")
    with HubServer(root / "store") as hub:
        hub.limit_rate(SLOW_BYTES_A_SECOND)
        home = root / "cache"
        shutil.rmtree(home, ignore_errors=True)
        env = child_environ(HF_HOME=str(home), HF_ENDPOINT=hub.endpoint)
        command = [str(BIN / "mlxk2"), "pull", name, "--stream-json"]
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                event = json.loads(line)
                if event.get("event") == "progress" and event["name"] is None and event["done"] * 2 >= event["total"]:
                    break
            process.send_signal(signal.SIGKILL)
        hub.limit_rate(None)
        hub.reset_counters()
        subprocess.run(command, env=env, stdout=subprocess.DEVNULL, check=True)
        share = hub.bytes_sent(name) / sum(entry.size for entry in hub.repo(name).files("main").values())
    return ("killed at 50 %, then pulled again", f"{share:.1%}", f"<= 51 %: {verdict(share <= 0.51)}")


def main() -> None:
    """Measure and print the tables."""
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        rows = compare(root, models(root / "models"))
        headers = ("download", "hf s", "mlxk2 s", "ratio", "hf peak MB", "mlxk2 peak MB", "target")
        print_table(f"pull against hf download, best (median) of {REPEATS}, in turns", headers, rows)
        print_table("Resume, 500 MB", ("what", "sent by the server", "target"), [resume(root)])


if __name__ == "__main__":
    main()
