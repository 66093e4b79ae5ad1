"""Work that calls itself deeper than a thread's usual stack allows. Imported where there is some: few commands have any."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable

from mlxk2 import errors

# Compiling goes as deep as a schema's references: five kilobytes a schema, of which there are thousands at most.
_STACK_BYTES = 256 * 2**20

_stack_size_lock = threading.Lock()


def on_deep_stack(make: Callable[[], Any]) -> Any:
    """Return what `make` makes, in a thread with so large a stack that recursion never reaches its end.

    Raises: what `make` raises, InsufficientMemory.
    """
    with ThreadPoolExecutor(1, "schema") as threads:
        with _stack_size_lock:
            usual = threading.stack_size(_STACK_BYTES)
            try:
                made = threads.submit(make)
            except RuntimeError as error:
                raise errors.InsufficientMemory(f"a schema cannot be compiled: {error}") from error
            finally:
                threading.stack_size(usual)
        return made.result()
