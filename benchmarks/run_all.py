"""Run every benchmark and print what machine it was. Called by `make bench`; `--markdown` prints tables for documents."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from harness import child_environ

HERE = Path(__file__).resolve().parent
BENCHMARKS = (
    "startup", "list_scaling", "deep_hash", "run_speed", "structured_speed", "batch_speed", "serve_speed", "serve_load",
    "hub_speed",
)  # fmt: skip
PACKAGES = ("mlxk2", "mlx", "mlx-lm", "huggingface-hub", "transformers", "tokenizers", "llguidance")


def machine() -> str:
    """Describe what the figures were measured on, in one line."""
    parts = [cpu_model(), f"{os.cpu_count()} cores", f"{platform.system()} {platform.machine()}"]
    parts.append(f"Python {platform.python_version()}")
    parts += [f"{name} {installed(name)}" for name in PACKAGES]
    if "openblas" in os.environ.get("LD_PRELOAD", ""):
        parts.append("OpenBLAS preloaded")
    return ", ".join(parts)


def cpu_model() -> str:
    """Name the processor as well as the system knows it."""
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return (
            subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or platform.processor()
        )
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown processor")


def installed(name: str) -> str:
    """Give the version of a package, or a dash."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "-"


def main() -> int:
    """Run them one after the other; 1 if one fails."""
    print(f"Machine: {machine()}", flush=True)
    env = child_environ()
    failed = []
    for name in BENCHMARKS:
        if (
            subprocess.run([sys.executable, str(HERE / f"{name}.py"), *sys.argv[1:]], env=env, check=False).returncode
            != 0
        ):
            failed.append(name)
    if failed:
        print(f"\nfailed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
