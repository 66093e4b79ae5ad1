"""The isolation of this suite really bites: each misuse is done in an inner pytest run, where it must fail."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent

MISUSES = """
import os, socket, pytest

CACHE = os.path.expanduser('~/.cache/huggingface')

def test_list():
    os.listdir(CACHE)

def test_swallowed():
    try:
        open(CACHE + '/hub/x')
    except BaseException:
        pass

def test_link(tmp_path):
    (tmp_path / 'link').symlink_to(CACHE)
    os.scandir(tmp_path / 'link')

def test_relative(monkeypatch):
    monkeypatch.chdir(os.path.expanduser('~'))
    os.listdir('.cache/huggingface')

def test_deletion():
    os.remove(CACHE + '/hub/x')

def test_named_by_environment():
    os.listdir(os.path.expanduser('~/elsewhere'))

def test_socket():
    with socket.socket() as s:
        s.settimeout(0.01)
        try:
            s.connect(('192.0.2.1', 9))
        except OSError:
            pass

def test_name():
    socket.getaddrinfo('example.invalid', 80)
"""

MISUSE_IN_FIXTURE = """
import os, pytest

@pytest.fixture
def listing():
    return os.listdir(os.path.expanduser('~/.cache/huggingface'))

def test_it(listing):
    pass
"""

HARMLESS = """
import os, socket, pytest

def test_own_cache(isolated_cache):
    assert os.listdir(isolated_cache.hub) == ['models--TEST-CACHE-SENTINEL']

def test_loopback():
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        server.listen()
        socket.create_connection(server.getsockname()).close()

def test_no_token_is_left():
    assert 'HF_TOKEN' not in os.environ

@pytest.mark.mlx_real
def test_real_mlx():
    raise AssertionError

@pytest.mark.wet
@pytest.mark.live_list
def test_live():
    os.listdir(os.path.expanduser('~/.cache/huggingface'))
"""


# Processes of pytest's, as `make test` has them.
SIDE_BY_SIDE = ("-p", "xdist", "-n", "2")


def run_inner(tmp_path: Path, source: str, *more: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run `source` as tests under a copy of this suite's conftest, with a HOME that has a cache."""
    inner, home = tmp_path / "inner", tmp_path / "home"
    hub = home / ".cache" / "huggingface" / "hub"
    inner.mkdir()
    hub.mkdir(parents=True)
    (hub / "x").touch()
    (home / "elsewhere").mkdir()
    (inner / "conftest.py").write_text((TESTS / "conftest.py").read_text(encoding="utf-8"), encoding="utf-8")
    (inner / "test_inner.py").write_text(source, encoding="utf-8")
    env = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    env.update(
        HOME=str(home), PYTHONPATH=str(TESTS), MLXK2_TEST_STUBS="1", PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", **environ
    )
    options = ["-c", str(TESTS.parent / "pytest.ini"), "--rootdir", str(inner), "-p", "no:cacheprovider", "-rA", *more]
    command = [sys.executable, "-m", "pytest", *options, "test_inner.py"]
    return subprocess.run(command, cwd=inner, env=env, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("options", [(), SIDE_BY_SIDE], ids=["alone", "side_by_side"])
def test_every_way_out_of_the_sandbox_fails_its_test(tmp_path: Path, options: tuple[str, ...]) -> None:
    result = run_inner(tmp_path, MISUSES, *options, HF_HUB_CACHE=str(tmp_path / "home" / "elsewhere"))
    tests = re.findall(r"def (test_\w+)", MISUSES)
    failed = re.findall(r"FAILED \S+::(test_\w+) - Failed: left its sandbox", result.stdout)
    assert sorted(failed) == sorted(tests), result.stdout + result.stderr
    assert (tmp_path / "home" / ".cache" / "huggingface" / "hub" / "x").exists()


def test_collecting_alone_is_shut_off_too(tmp_path: Path) -> None:
    source = "import os\nassert 'HF_TOKEN' not in os.environ\ndef test_nothing(): pass\n"
    result = run_inner(tmp_path, source, *SIDE_BY_SIDE, "--collect-only", HF_TOKEN="secret")
    assert "1 test collected" in result.stdout, result.stdout + result.stderr


def test_a_fixture_that_leaves_the_sandbox_fails_its_test(tmp_path: Path) -> None:
    result = run_inner(tmp_path, MISUSE_IN_FIXTURE)
    assert result.returncode == 1
    assert "left its sandbox" in result.stdout


@pytest.mark.parametrize("options", [(), SIDE_BY_SIDE], ids=["alone", "side_by_side"])
@pytest.mark.parametrize(("switch", "outcome"), [("0", "3 passed, 2 skipped"), ("1", "4 passed, 1 skipped")])
def test_harmless_work_passes_and_switches_are_obeyed(
    tmp_path: Path, switch: str, outcome: str, options: tuple[str, ...]
) -> None:
    """So the failures above are the guard's. Live tests run when switched on; `mlx_real` is skipped under stand-ins."""
    result = run_inner(tmp_path, HARMLESS, *options, HF_TOKEN="secret", MLXK2_LIVE_LIST=switch)
    assert outcome in result.stdout, result.stdout + result.stderr
    assert "the stand-ins are in use" in result.stdout
