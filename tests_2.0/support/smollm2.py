"""The real chat model SmolLM2-135M-Instruct for tests: fetched once, converted by our own `convert`, kept in .cache/.

`smollm2("4bit")` is as small as its GGUF; `smollm2("f32")` is fast where a good BLAS is loaded (see the Makefile).
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from support.isolation import USER_ENVIRON

ROOT = Path(__file__).resolve().parent.parent.parent
CACHE = ROOT / ".cache" / "smollm2"
# float32 beside the 4-bit weights too: MLX emulates float16 on a CPU, thirty times slower.
OPTIONS = {"4bit": ("--dtype", "float32"), "f32": ("--dequantize", "--dtype", "float32")}


@cache
def smollm2_gguf() -> Path:
    """Return the GGUF file; skips the test, with the reason, where it cannot be fetched."""
    fetcher = _fetcher()
    with _alone("fetch"):
        try:
            return Path(fetcher.fetch(CACHE, dict(USER_ENVIRON)))
        except fetcher.FetchFailed as failed:
            pytest.skip(f"SmolLM2: {failed}")


@cache
def smollm2(form: str = "f32", *, any_blas: bool = False) -> Path:
    """Return the model folder in the `form` "4bit" or "f32"; skips the test where the model cannot be fetched.

    In "f32" it is also skipped where MLX would take minutes for an answer, unless `any_blas` says that this is no matter.
    """
    from support.call import call

    if (
        form == "f32"
        and not any_blas
        and sys.platform == "linux"
        and "openblas" not in os.environ.get("LD_PRELOAD", "")
    ):
        pytest.skip("SmolLM2 in float32 needs a fast BLAS: install libopenblas0-pthread, and `make test` preloads it")

    gguf = smollm2_gguf()
    # Made anew when the code that makes it changes.
    folder = CACHE / f"{form}-{_fingerprint()}"
    with _alone(form):
        if not folder.is_dir():
            _forget_older(form)
            answer = call("convert", str(gguf), str(folder), *OPTIONS[form], "--json", env={"HOME": str(CACHE)})
            assert answer.code == 0, answer.stdout
    return folder


def _fetcher() -> Any:
    spec = importlib.util.spec_from_file_location("fetch_smollm2", ROOT / "scripts" / "fetch_smollm2.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def _alone(name: str) -> Iterator[None]:
    """Let one process at a time make a thing; the others wait and find it made."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / f".{name}.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@cache
def _fingerprint() -> str:
    import hashlib

    digest = hashlib.sha256()
    sources = [*(ROOT / "mlxk2" / "convert").glob("*.py"), *(ROOT / "mlxk2" / "inspection").glob("gguf*.py")]
    for path in sorted(sources):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _forget_older(form: str) -> None:
    import shutil

    for path in CACHE.glob(f"{form}-*"):
        shutil.rmtree(path, ignore_errors=True)
