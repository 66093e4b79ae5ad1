"""What work costs, for tests that compare a lot of it with a little: never a clock on the wall."""

from __future__ import annotations

import time
from typing import Callable


def cpu_seconds(work: Callable[[int], object], size: int) -> float:
    """Return the least of three runs of `work(size)`, in CPU time of this process."""
    taken = []
    for _ in range(3):
        start = time.process_time()
        work(size)
        taken.append(time.process_time() - start)
    return min(taken)
