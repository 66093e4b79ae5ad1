"""Isolation for every test: own cache, no user's files, no network, stand-ins where the real MLX is missing."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from support.guard import Guard, user_cache_roots
from support.isolation import USER_ENVIRON, IsolatedCache, make_cache, real_mlx_works, scrub_environment, use_stubs

pytest_plugins = ("conftest_runner", "conftest_chat")

# Marker -> the variable that lets its tests run; they use the user's own cache or network on purpose.
LIVE_SWITCHES = {"live_push": "MLXK2_LIVE_PUSH", "live_clone": "MLXK2_LIVE_CLONE", "live_list": "MLXK2_LIVE_LIST"}
UNGUARDED = ("live", "wet", "issue27", "server_real", *LIVE_SWITCHES)

# How long an example takes says more of the machine than of us.
hypothesis.settings.register_profile("suite", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("suite")

GUARD = Guard(forbidden=user_cache_roots(USER_ENVIRON))
_NOWHERE = tempfile.TemporaryDirectory(prefix="mlxk2-no-cache-")


def pytest_configure(config: pytest.Config) -> None:
    """Shut this process off, but not one that only hands tests out: its workers see the environment as the user has it."""
    if config.getoption("numprocesses", None) and not config.option.collectonly:
        return
    GUARD.install()
    scrub_environment(Path(_NOWHERE.name) / "hf")
    if not real_mlx_works():
        use_stubs()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A job in the background is started so, and children would inherit it: tests of Ctrl-C need the usual state.
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure() -> None:
    _NOWHERE.cleanup()


def pytest_report_header() -> str:
    return "mlx: " + ("real" if real_mlx_works() else "stand-ins of tests_2.0/stubs")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    asked_for = config.getoption("-m") or ""
    for item in items:
        reason = _reason_to_skip(item, asked_for)
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


def _reason_to_skip(item: pytest.Item, asked_for: str) -> str | None:
    """Say why `item` cannot run here, or None."""
    if item.get_closest_marker("mlx_real") and not real_mlx_works():
        return "needs the real mlx and mlx-lm; the stand-ins are in use"
    for marker, switch in LIVE_SWITCHES.items():
        if item.get_closest_marker(marker) and USER_ENVIRON.get(switch) != "1" and asked_for != marker:
            return f"live: set {switch}=1, or run with -m {marker}"
    return None


def _guarded(item: pytest.Item) -> bool:
    return not any(item.get_closest_marker(name) for name in UNGUARDED)


def _watch(item: pytest.Item) -> Iterator[None]:
    """Run one phase of a test under the guard; what the guard saw fails the test, whoever swallowed it."""
    if not _guarded(item):
        return (yield)
    with GUARD.watching():
        try:
            result = yield
        finally:
            seen = GUARD.take_violations()
            if seen:
                pytest.fail("left its sandbox: " + "; ".join(dict.fromkeys(seen)), pytrace=False)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    return (yield from _watch(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    return (yield from _watch(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    return (yield from _watch(item))


@pytest.fixture
def isolated_cache(tmp_path: Path) -> IsolatedCache:
    """A cache of this test's own that holds nothing but the sentinel."""
    return make_cache(tmp_path)
