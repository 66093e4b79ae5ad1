"""How much may be read of requests that do not stand in line yet, as many as may wait and not without end; and where."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Callable, TypeVar

from mlxk2.errors import QueueFull
from mlxk2.server.host_types import HostLike

Result = TypeVar("Result")

# Largest bodies that may be in memory side by side.
_SIDE_BY_SIDE = 8

# Larger bodies are understood in a thread, so that others need not wait; and few at a time.
_LARGE_BYTES = 256 * 1024
_MOST_THREADS = 2


class Bodies:
    """The bodies that are being read. `largest_bytes` is what one may have."""

    def __init__(self, host: HostLike, largest_bytes: int) -> None:
        self._host, self._most_bytes = host, _SIDE_BY_SIDE * largest_bytes
        self._count = self._bytes = 0
        # Not those that names are looked up in: these stay free for that.
        self._threads = ThreadPoolExecutor(_MOST_THREADS, thread_name_prefix="body")
        # What the threads work on is handed out by the loop: out of the executor's own line they would go on to the next
        # without a pause, and the loop would hardly get Python's lock.
        self._turns = asyncio.Semaphore(_MOST_THREADS)

    @contextmanager
    def place(self) -> Iterator[Callable[[int], None]]:
        """Have a place to read a body in: what is called with the size of each part of it.

        Raises: QueueFull, at once or with a part, where the body could not be answered or not be kept.
        """
        told = self._host.snapshot()
        if told.running + told.waiting + self._count >= told.max_concurrency + told.max_queue:
            raise QueueFull(
                "the server has as many requests as it takes", hint="try again later", retry_after_s=told.retry_after_s
            )
        own = 0

        def take(size: int) -> None:
            nonlocal own
            if self._bytes + size > self._most_bytes:
                raise QueueFull("the server reads too many large requests", hint="try again later", retry_after_s=1)
            own += size
            self._bytes += size

        self._count += 1
        try:
            yield take
        finally:
            self._count -= 1
            self._bytes -= own

    async def work(self, size: int, work: Callable[..., Result], *given: Any) -> Result:
        """Return what `work` makes of what is `given`, which has so many bytes. Raises: what `work` raises."""
        if size <= _LARGE_BYTES:
            return work(*given)
        async with self._turns:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work, *given)
