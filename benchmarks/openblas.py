"""A fast BLAS for the real model on Linux's CPU build: MLX's wheel brings the reference one, which is thirty times slower.

macOS brings its own; elsewhere Debian's libopenblas0-pthread, or what the system has in its place, is preloaded.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

_PLACES = ("/usr/lib/*/openblas-pthread/libopenblas.so.0", "/usr/lib/*/libopenblas.so.0", "/usr/lib64/libopenblas.so.0")


def preload() -> dict[str, str]:
    """Return the variables that a child needs to compute with OpenBLAS; none where it is not installed."""
    found = next((path for place in _PLACES for path in sorted(Path("/").glob(place[1:]))), None)
    return {} if found is None else {"LD_PRELOAD": str(found), "OPENBLAS_NUM_THREADS": "1"}


def restarted() -> None:
    """Start this program again with OpenBLAS preloaded, unless it is or there is none."""
    wanted = preload()
    if wanted and "openblas" not in os.environ.get("LD_PRELOAD", ""):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **wanted})


def note() -> str:
    """Say in a table's title which BLAS it was."""
    return "OpenBLAS" if "openblas" in os.environ.get("LD_PRELOAD", "") else "the system's BLAS"
