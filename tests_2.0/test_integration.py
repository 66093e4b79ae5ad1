"""The commands together, as a person or a script uses them; true processes where streams, signals and pipes matter."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.call import call, checked
from support.isolation import IsolatedCache
from support.planting import COMMIT_A, plant, plant_tiny


def spawn(cache: IsolatedCache, *words: str, **options: object) -> subprocess.Popen[str]:
    """Start `python -m mlxk2` as a process of its own."""
    env = {**os.environ, **cache.env}
    command = [sys.executable, "-m", "mlxk2", *words]
    return subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)  # type: ignore[call-overload,no-any-return]


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_list_show_health_run_rm_are_one_story(isolated_cache: IsolatedCache) -> None:
    env = isolated_cache.env
    plant_tiny(isolated_cache.hub, "mlx-community/Tiny-Instruct", answer="Paris is the capital.")
    (name,) = [m["name"] for m in call("list", "--json", env=env).data["models"]]
    assert call("health", name, "--json", env=env).data["summary"]["healthy_count"] == 1
    assert call("show", name, "--json", env=env).data["model"]["runtime_compatible"] is True
    answer = call("run", name, "What is the capital of France?", "--json", env=env)
    assert answer.data["response"] == "Paris is the capital."
    assert call("rm", name, "--json", env=env).data["action"] == "deleted"
    assert call("list", "--json", env=env).data["count"] == 0


def test_a_process_prints_one_document_and_nothing_else(isolated_cache: IsolatedCache) -> None:
    plant_tiny(isolated_cache.hub, "org/tiny", answer="Yes.")
    for words in (["list"], ["health"], ["show", "tiny"], ["run", "tiny", "Is it?"], ["--version"]):
        code, out, err = finish(spawn(isolated_cache, *words, "--json"))
        assert (code, err) == (0, ""), err
        checked(out, code)


@pytest.mark.parametrize("word", ["push", "clone"])
def test_alpha_commands_are_there_for_those_who_ask(isolated_cache: IsolatedCache, word: str) -> None:
    for value in ("", "0", "false", "False"):
        env = {**isolated_cache.env, "MLXK2_ENABLE_ALPHA_FEATURES": value}
        answer = call(word, "--json", env=env)
        assert (answer.code, answer.json["command"], answer.error["type"]) == (2, word, "CommandError")
        assert "MLXK2_ENABLE_ALPHA_FEATURES" in answer.error["hint"]
        assert f"  {word} " not in call("--help", env=env).stdout
        assert word not in call("--help", "--json", env=env).data["commands"]
    env = {**isolated_cache.env, "MLXK2_ENABLE_ALPHA_FEATURES": "yes"}
    assert f"  {word} " in call("--help", env=env).stdout
    assert call(word, "--help", env=env).code == 0


def test_a_closed_pipe_ends_silently(isolated_cache: IsolatedCache) -> None:
    for number in range(300):
        plant(isolated_cache.hub, f"org/model-{number:04}")
    with spawn(isolated_cache, "list", "--json") as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.wait(timeout=60) == 141
        assert process.stderr.read() == ""


def test_a_full_disk_is_told_on_the_other_stream(isolated_cache: IsolatedCache) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    env = {**os.environ, **isolated_cache.env}
    for words in (["list"], ["list", "--json"], ["show", "nosuch", "--json"], ["--help"]):
        with open("/dev/full", "w", encoding="ascii") as full:
            command = [sys.executable, "-m", "mlxk2", *words]
            done = subprocess.run(command, env=env, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert done.returncode == 1
        assert done.stderr == "error: the answer could not be written: No space left on device\n"


def test_what_the_caller_ignores_stays_ignored(isolated_cache: IsolatedCache) -> None:
    """As under nohup: a command that runs on after the hang-up of its terminal."""
    script = (
        "import signal, sys\n"
        "from mlxk2.cli import main\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "main(['--version'])\n"
        "kept = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN\n"
        "taken = callable(signal.getsignal(signal.SIGTERM))\n"
        "sys.exit(0 if kept and taken else 1)\n"
    )
    env = {**os.environ, **isolated_cache.env}
    assert subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("variable", ["HF_HOME", "MLXK2_WORKSPACE_HOME", "COLUMNS"])
def test_odd_values_in_the_environment_are_survived(isolated_cache: IsolatedCache, variable: str) -> None:
    for value in ("~nosuchuser/x", "9" * 5000, "\x00" if variable == "COLUMNS" else "/"):
        answer = call("list", "--json", env={**isolated_cache.env, variable: value})
        assert answer.code == 0 or answer.error["type"] == "permission_denied"


def test_a_closed_standard_input_is_an_empty_one(isolated_cache: IsolatedCache) -> None:
    plant_tiny(isolated_cache.hub, "org/tiny", answer="Yes.")
    env = {**os.environ, **isolated_cache.env}
    for redirect in ("<&-", "</dev/null"):
        script = f"exec {sys.executable} -m mlxk2 run tiny - {redirect}"
        done = subprocess.run(["sh", "-c", script], env=env, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 2
        assert done.stderr.startswith("error: the prompt is empty")


def test_closed_standard_streams_are_survived(isolated_cache: IsolatedCache) -> None:
    script = f"exec {sys.executable} -m mlxk2 list --json <&- >&- 2>&-"
    env = {**os.environ, **isolated_cache.env}
    assert subprocess.run(["sh", "-c", script], env=env, check=False, timeout=60).returncode == 1
    script = f"exec {sys.executable} -m mlxk2 list --json >&-"
    done = subprocess.run(["sh", "-c", script], env=env, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (1, "error: the answer could not be written: Bad file descriptor\n")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_while_hashing_is_exit_130(isolated_cache: IsolatedCache, name: str) -> None:
    repo = plant(isolated_cache.hub, "org/big")
    blob = repo / "blobs" / ("e" * 64)
    with blob.open("wb") as file:
        file.truncate(40 << 30)
    (repo / "snapshots" / COMMIT_A / "model.safetensors").symlink_to(blob)
    with spawn(isolated_cache, "health", "--deep", "--json") as process:
        try:
            _wait_until_busy(process.pid)
            process.send_signal(getattr(signal, name))
            code, out, err = finish(process)
        finally:
            process.kill()
    assert code == 130, err
    assert checked(out, code)["error"]["type"] == "interrupted"
    assert err == ""


def _wait_until_busy(pid: int) -> None:
    """Wait until the process has the big blob open."""
    import time

    folder = Path(f"/proc/{pid}/fd")
    if not folder.exists():
        pytest.skip("needs /proc to see when the process is at work")
    end = time.monotonic() + 60
    while time.monotonic() < end:
        for link in folder.iterdir():
            try:
                if "e" * 64 in os.readlink(link):
                    return
            except FileNotFoundError:
                continue
        time.sleep(0.01)
    raise AssertionError("the process never opened the blob")


def test_library_noise_never_reaches_stdout(isolated_cache: IsolatedCache, tmp_path: Path) -> None:
    """A package that prints when it is imported, natively too, leaves the answer alone."""
    plant_tiny(isolated_cache.hub, "org/tiny", answer="Yes.")
    noisy = tmp_path / "noisy"
    noisy.mkdir()
    (noisy / "sitecustomize.py").write_text(
        "import builtins, os, sys\n"
        "real = builtins.__import__\n"
        "def noisy(name, *rest, **more):\n"
        "    if name.startswith('tokenizers') and not hasattr(builtins, 'said'):\n"
        "        builtins.said = True\n"
        "        print('NOISE'); os.write(1, b'NATIVE')\n"
        "    return real(name, *rest, **more)\n"
        "builtins.__import__ = noisy\n",
        encoding="utf-8",
    )
    path = os.pathsep.join([str(noisy), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**isolated_cache.env, "PYTHONPATH": path}
    world = IsolatedCache(isolated_cache.root, isolated_cache.hf_home, isolated_cache.hub, env)
    code, out, err = finish(spawn(world, "run", "tiny", "Is it?"))
    assert (code, out) == (0, "Yes.\n"), err
    assert "NATIVE" in err
    code, out, err = finish(spawn(world, "run", "tiny", "Is it?", "--json"))
    assert (code, err) == (0, "")
    assert checked(out, code)["data"]["response"] == "Yes."


def test_health_strict_is_an_error_with_the_report(isolated_cache: IsolatedCache) -> None:
    plant_tiny(isolated_cache.hub, "org/good")
    assert call("health", "--strict", "--json", env=isolated_cache.env).code == 0
    plant(isolated_cache.hub, "org/bad")
    answer = call("health", "--strict", "--json", env=isolated_cache.env)
    assert (answer.code, answer.error["type"], answer.data) == (1, "unhealthy_models", None)
    assert answer.error["detail"]["summary"] == {"total": 2, "healthy_count": 1, "unhealthy_count": 1}
    human = call("health", "--strict", env=isolated_cache.env)
    assert human.code == 1
    assert "unhealthy org/bad — No model weights found" in human.stdout
    assert "error: 1 of 2 models is unhealthy" in human.stderr


def test_health_of_names_patterns_and_revisions(isolated_cache: IsolatedCache) -> None:
    for name in ("org/a-model", "org/b-model"):
        plant(isolated_cache.hub, name)

    def names(text: str) -> list[str]:
        data = call("health", text, "--json", env=isolated_cache.env).data
        return [m["name"] for m in data["healthy"] + data["unhealthy"]]

    assert names("MODEL") == ["org/a-model", "org/b-model"]
    assert names("org/a-model") == ["org/a-model"]
    assert names("nothing") == names("org/nothing") == []
    assert names("@main") == []
    assert names(f"@{COMMIT_A[:6]}") == ["org/a-model", "org/b-model"]
    answer = call("health", "org/a-model@ffff", "--json", env=isolated_cache.env)
    assert answer.data["unhealthy"][0]["reason"] == "Specific hash ffff not found"
    answer = call("health", "model@ffff", "--json", env=isolated_cache.env)
    assert answer.error["type"] == "ambiguous_match"
    assert answer.data == {
        "healthy": [], "unhealthy": [], "summary": {"total": 0, "healthy_count": 0, "unhealthy_count": 0}
    }  # fmt: skip
