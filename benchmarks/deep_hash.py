"""The hashing of `health --deep` against hashlib alone: the same files, as many threads, in turns."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import harness  # noqa: F401 - puts the test kit on the path
from support.cache_builder import Repo, chat_model
from table import print_table, verdict

from mlxk2.driving import drain
from mlxk2.inspection.content_hash import check_content
from mlxk2.inspection.files import ModelFiles
from mlxk2.store.model_ref import CACHE, ModelRef

FILES = 4
FILE_BYTES = 96 * 2**20
REPEATS = 5
TARGET = 0.9


def make_model(hub: Path) -> ModelRef:
    """Put a model with a few large files of noise into a cache."""
    repo = Repo(hub, "mlx-community/large")
    files = chat_model()
    for number in range(FILES):
        files[f"extra-{number}.bin"] = os.urandom(FILE_BYTES)
    return ModelRef("mlx-community/large", repo.snapshot(files), None, CACHE)


def hash_file(path: str) -> str:
    """Hash one file with nothing but hashlib and one buffer."""
    hasher, buffer = hashlib.sha256(), memoryview(bytearray(1 << 20))
    with open(path, "rb", buffering=0) as file:
        while True:
            count = file.readinto(buffer)
            if not count:
                return hasher.hexdigest()
            hasher.update(buffer[:count])


def with_hashlib(files: ModelFiles, threads: int) -> None:
    """Hash all files of a model in a pool of threads."""
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(hash_file, [entry.path for entry in files.entries]))


def with_mlxk2(files: ModelFiles, threads: int) -> None:
    """Check all files of a model as `health --deep` does."""
    if drain(check_content(files, threads), None):
        raise SystemExit("a sound model was found broken")


def best(work: Callable[[ModelFiles, int], None], files: ModelFiles, threads: int) -> float:
    """Time one call. Units: seconds."""
    start = time.perf_counter()
    work(files, threads)
    return time.perf_counter() - start


def main() -> None:
    """Measure and print the table."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        files = ModelFiles.read(make_model(Path(folder) / "hub"))
        size = sum(entry.size_bytes or 0 for entry in files.entries) / 1e6
        for threads in sorted({1, min(os.cpu_count() or 1, 8)}):
            times = [(best(with_hashlib, files, threads), best(with_mlxk2, files, threads)) for _ in range(REPEATS + 1)]
            alone, ours = (min(column) for column in zip(*times[1:]))
            ratio = alone / ours
            speeds = (f"{size / alone:.0f}", f"{size / ours:.0f}", f"{ratio:.2f}")
            rows.append((threads, *speeds, f">= {TARGET}: {verdict(ratio >= TARGET)}"))
    headers = ("threads", "hashlib MB/s", "health --deep MB/s", "ratio", "target")
    print_table(f"Hashing {size:.0f} MB in {FILES} large files and a few small ones, best of {REPEATS}", headers, rows)


if __name__ == "__main__":
    main()
