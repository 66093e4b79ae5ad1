"""`list` over more models than one process takes: same answer, same order, no process left behind."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.big_cache import make_big_cache
from support.call import call, checked
from support.isolation import make_cache

from mlxk2.inspection.describe import describe
from mlxk2.inspection.many import MODELS_A_WORKER, describe_many
from mlxk2.settings import Settings
from mlxk2.store.resolve import match_models

COUNT = 2 * MODELS_A_WORKER + 7


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A cache large enough to be shared among workers."""
    cache = make_cache(tmp_path_factory.mktemp("many"))
    make_big_cache(cache.hub, COUNT)
    return cache.env


def test_workers_find_what_one_process_finds(env: dict[str, str]) -> None:
    refs = match_models(None, Settings.from_env(env))
    assert len(refs) == COUNT
    assert describe_many(refs) == tuple(describe(ref) for ref in refs)


def test_no_process_is_left_behind(env: dict[str, str]) -> None:
    script = (
        "import os, sys\n"
        "from mlxk2.cli import main\n"
        "code = main(['list', '--json'])\n"
        "try:\n"
        "    os.waitpid(-1, os.WNOHANG)\n"
        "except ChildProcessError:\n"
        "    sys.exit(code)\n"
        "sys.exit('a child is left')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], env={**os.environ, **env}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert checked(done.stdout.decode(), 0)["data"]["count"] == COUNT


def test_a_broken_model_in_a_share_is_one_row(env: dict[str, str]) -> None:
    repo = Path(env["HF_HOME"]) / "hub" / "models--org--zz-broken"
    repo.mkdir()
    models = call("list", "--json", env=env).data["models"]
    assert len(models) == COUNT + 1
    assert models[-1]["reason"] == "No snapshots found"
    repo.rmdir()


def test_without_processes_to_spare_the_answer_is_the_same(
    env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> int:
        raise BlockingIOError("no process left")

    expected = call("list", "--json", env=env).data
    monkeypatch.setattr(os, "fork", refuse)
    # What other tests have left lying is not collected in between.
    gc.collect()
    before = len(os.listdir("/dev/fd"))
    assert call("list", "--json", env=env).data == expected
    assert len(os.listdir("/dev/fd")) <= before


def test_a_worker_that_dies_costs_no_model(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = call("list", "--json", env=env).data
    fork = os.fork

    def fork_and_die() -> int:
        pid = fork()
        if pid == 0:
            os._exit(1)
        return pid

    monkeypatch.setattr(os, "fork", fork_and_die)
    assert call("list", "--json", env=env).data == expected
