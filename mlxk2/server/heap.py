"""How glibc's malloc treats what an engine frees; does nothing where another C library is in its place."""

from __future__ import annotations

import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8

# As far as malloc would go by itself in the end, a little with each larger array that is freed; until then, what comes
# and goes at every step is pages that come and go.
_LARGEST_ON_HEAP = 32 * 2**20
_MOST_UNUSED_AT_TOP = 2 * _LARGEST_ON_HEAP


def keep_freed() -> None:
    """Let freed memory be used again instead of going back to the system and coming again; before threads are started.

    One heap for all threads: what one of them has freed is of use to the others.
    """
    if sys.platform != "linux":
        return
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_ON_HEAP)
        mallopt(_M_TRIM_THRESHOLD, _MOST_UNUSED_AT_TOP)
