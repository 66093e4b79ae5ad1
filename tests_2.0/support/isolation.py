"""A test's own world: the environment without the user's, a cache of its own, and whether the real MLX is there."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mlxk2.store.layout import SENTINEL_NAME, repo_folder

STUBS = Path(__file__).resolve().parent.parent / "stubs"

# As the person who started the tests has it; live tests may use it.
USER_ENVIRON: Mapping[str, str] = dict(os.environ)

_SCRUBBED = (
    "HF_HUB_CACHE", "HF_TOKEN", "HUGGINGFACE_HUB_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT", "XDG_CACHE_HOME",
    "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "MLX_RANK", "MLX_HOSTFILE",
)  # fmt: skip


@dataclass(frozen=True)
class IsolatedCache:
    """A hub cache of the test's own that holds the sentinel. `env` is what to hand to `call(..., env=...)`."""

    root: Path
    hf_home: Path
    hub: Path
    env: dict[str, str]


def scrub_environment(nowhere: Path) -> None:
    """Take the user's cache, tokens and switches out of this process's environment, and so out of its children's."""
    for name in list(os.environ):
        if name in _SCRUBBED or (name.startswith("MLXK2_") and name != "MLXK2_TEST_STUBS"):
            del os.environ[name]
    os.environ["HF_HOME"] = str(nowhere)
    os.environ["HF_HUB_OFFLINE"] = "1"


def make_cache(root: Path) -> IsolatedCache:
    """Lay out a cache with nothing but the sentinel below `root`."""
    home, hf_home = root / "home", root / "hf"
    hub = hf_home / "hub"
    snapshot = hub / repo_folder(SENTINEL_NAME) / "snapshots" / ("0" * 40)
    home.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}", encoding="utf-8")
    env = {"HOME": str(home), "HF_HOME": str(hf_home), "MLXK2_STRICT_TEST_DELETE": "1"}
    return IsolatedCache(root, hf_home, hub, env)


def above_permissions() -> bool:
    """Tell whether this user may read and delete everything, as root usually may: then nothing can be unreadable."""
    with tempfile.TemporaryDirectory() as folder:
        closed = Path(folder) / "closed"
        closed.mkdir(mode=0)
        return os.access(closed, os.R_OK | os.W_OK)


@cache
def real_mlx_works() -> bool:
    """Try the real mlx in a process of its own, so that a build for another processor cannot take the tests down."""
    if os.environ.get("MLXK2_TEST_STUBS") == "1":
        return False
    probe = "import importlib.util as u, mlx.core, sys; sys.exit(u.find_spec('mlx_lm') is None)"
    return subprocess.run([sys.executable, "-c", probe], capture_output=True, timeout=120, check=False).returncode == 0


def use_stubs() -> None:
    """Put the stand-ins for mlx and mlx_lm first on the path, here and in child processes."""
    sys.path.insert(0, str(STUBS))
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(STUBS) + (os.pathsep + before if before else "")
