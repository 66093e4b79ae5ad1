"""Two ranks on this machine, real processes on the ring backend: the same answer as one, and an end whatever happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.call import call, checked
from support.processes import gone, wait_until
from support.ranks import Rank, free_ports, hostfile, started
from support.tiny_model import TinyOptions, scripted_model, tiny_model

from mlxk2.inspection.versions import installed_version

DIVIDES = tuple(map(int, (installed_version("mlx-lm") or "0.0").split(".")[:2])) >= (0, 32)

pytestmark = [
    pytest.mark.mlx_real,
    pytest.mark.slow,
    pytest.mark.skipif(not DIVIDES, reason="needs mlx-lm 0.32, which is for Python 3.11 and later"),
]

GREEDY = ("--temperature", "0", "--repetition-penalty", "1", "--max-tokens", "24")
DRAWN = ("--temperature", "0.9", "--seed", "7", "--max-tokens", "24")

# Enough for a busy machine to take a step, short enough to wait for.
PATIENCE = {"MLXK2_PEER_TIMEOUT": "4"}
PATIENCE_S = 4
# Where nothing but a loss may end it: a busy machine may stand still for longer.
MORE_PATIENCE = {"MLXK2_PEER_TIMEOUT": "8"}
MORE_PATIENCE_S = 8

# On top of it: two starts of Python, imports, and the end of a process that does not listen.
OVERHEAD_S = 15


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    return hostfile(tmp_path, 2)


def with_index(path: Path) -> Path:
    """List the weights in an index, as files of several shards have it."""
    raw = (path / "model.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    index = {name: "model.safetensors" for name in header if name != "__metadata__"}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}), encoding="utf-8")
    return path


def answer_of_one(path: Path, *flags: str) -> Any:
    """What a single process answers."""
    told = call("run", str(path), "hello there", *flags, "--json")
    assert told.code == 0
    return told.data


@pytest.mark.parametrize(
    ("model_type", "sharding", "flags"),
    [("llama", "tensor", GREEDY), ("qwen2", "tensor", DRAWN), ("qwen2", "pipeline", GREEDY)],
    ids=["llama-tensor-greedy", "qwen2-tensor-drawn", "qwen2-pipeline-greedy"],
)
def test_two_ranks_give_the_answer_of_one(
    tmp_path: Path, hosts: Path, model_type: str, sharding: str, flags: tuple[str, ...]
) -> None:
    path = with_index(tiny_model(tmp_path / "model", TinyOptions(model_type=model_type)))
    words = ("run", str(path), "hello there", *flags, "--json")
    with started(words, hosts, env={"MLXK2_SHARDING": sharding}) as (first, second):
        told, silent = first.end(), second.end()
    assert told.code == 0, (told, silent)
    alone = answer_of_one(path, *flags)
    data = checked(told.stdout, told.code)["data"]
    same = ("model", "prompt", "response", "finish_reason", "usage", "tokens_generated")
    assert {key: data[key] for key in same} == {key: alone[key] for key in same}
    assert data["response"]
    assert told.stderr == ""
    assert silent == (0, "", "")


def test_no_rank_ends_before_rank_0_has_the_whole_answer(tmp_path: Path, hosts: Path) -> None:
    # Two pieces larger than a pipe: nobody reads, so rank 0 stands at the second one, and the last token is still to come.
    pieces = ("a" * 300_000, "b" * 300_000, "c")
    path = scripted_model(tmp_path / "model", pieces=pieces)
    words = (
        "run",
        str(path),
        "hi",
        "--temperature",
        "0",
        "--repetition-penalty",
        "1",
        "--max-tokens",
        "3",
        "--stream-json",
    )
    with started(words, hosts) as (first, second):
        first.read_until('"started"')
        # Others do meanwhile, from their start to their end, what rank 1 has the last step left of.
        (tmp_path / "others").mkdir()
        with started(words, hostfile(tmp_path / "others", 2)) as others:
            assert [other.end().code for other in others] == [0, 0]
        assert second.process.poll() is None
        told, silent = first.end(), second.end()
    assert last_line(told.stdout)["data"]["response"] == "".join(pieces)
    assert silent == (0, "", "")


def test_rank_0_reads_the_prompt_and_people_read_its_answer(tmp_path: Path, hosts: Path) -> None:
    path = scripted_model(tmp_path / "model", "It was the best of times.")
    with started(("run", str(path), "-", *GREEDY), hosts, stdin="What was it?\n") as (first, second):
        told, silent = first.end(), second.end()
    assert told == (0, "It was the best of times.\n", "")
    assert silent == (0, "", "")


@pytest.mark.parametrize("present", [0, 1])
def test_a_missing_rank_ends_the_other(tmp_path: Path, hosts: Path, present: int) -> None:
    path = tiny_model(tmp_path / "model")
    start = time.monotonic()
    with started(("run", str(path), "hi", "--json"), hosts, ranks=(present,), env=PATIENCE) as (alone,):
        wait_until(lambda: alone.has_worker(), "it waits")
        worker = alone.worker()
        told = alone.end()
        wait_until(lambda: gone(worker), "its process has ended")
    assert PATIENCE_S <= time.monotonic() - start < PATIENCE_S + OVERHEAD_S
    if present == 0:
        error = checked(told.stdout, told.code)["error"]
        assert (error["type"], error["retryable"], told.code) == ("peer_lost", True, 1)
        assert "waiting for them to connect" in error["message"]
        assert told.stderr == ""
    else:
        # Rank 0 is not there to say it.
        assert (told.code, told.stdout) == (1, "")
        assert told.stderr.startswith("error: rank 1: no sign of the other ranks")


@contextmanager
def talking(tmp_path: Path, hosts: Path, env: dict[str, str]) -> Iterator[tuple[Rank, Rank, list[int]]]:
    """Two ranks in the middle of an answer that would go on for long, and the processes that work for them."""
    path = scripted_model(tmp_path / "model", "abcdefghij", TinyOptions(context_length=100_000), repeat=True)
    words = ("run", str(path), "hi", "--temperature", "0", "--repetition-penalty", "1", "--stream-json")
    with started(words, hosts, env=env) as (first, second):
        first.read_until('"delta"')
        yield first, second, [first.worker(), second.worker()]


def last_line(text: str) -> Any:
    return json.loads(text.splitlines()[-1])


@pytest.mark.parametrize("how", ["machine-off", "worker-killed", "worker-stuck"])
def test_a_rank_that_is_lost_ends_rank_0(tmp_path: Path, hosts: Path, how: str) -> None:
    with talking(tmp_path, hosts, MORE_PATIENCE) as (first, second, workers):
        start = time.monotonic()
        if how == "worker-stuck":
            os.kill(workers[1], signal.SIGSTOP)
        else:
            os.kill(workers[1], signal.SIGKILL)
        if how == "machine-off":
            second.process.kill()
        told = first.end()
        assert time.monotonic() - start < MORE_PATIENCE_S + OVERHEAD_S
        second.end()
        for pid in workers:
            wait_until(lambda pid=pid: gone(pid), "nothing is left")  # type: ignore[misc]
    answer = last_line(told.stdout)
    assert (told.code, answer["status"], answer["error"]["type"]) == (1, "error", "peer_lost")
    assert told.stderr == ""


def test_losing_rank_0_ends_the_others(tmp_path: Path, hosts: Path) -> None:
    with talking(tmp_path, hosts, MORE_PATIENCE) as (first, second, workers):
        first.process.kill()
        told = second.end()
        for pid in workers:
            wait_until(lambda pid=pid: gone(pid), "nothing is left")  # type: ignore[misc]
    assert (told.code, told.stdout) == (1, "")
    assert told.stderr.startswith("error: rank 1: ")


def test_ctrl_c_on_both_keeps_what_was_said(tmp_path: Path, hosts: Path) -> None:
    with talking(tmp_path, hosts, {}) as (first, second, _workers):
        for rank in (first, second):
            rank.process.send_signal(signal.SIGINT)
        told, silent = first.end(), second.end()
    answer = last_line(told.stdout)
    assert (told.code, answer["error"]["type"]) == (130, "interrupted")
    assert answer["data"]["finish_reason"] == "interrupted"
    assert answer["data"]["response"].startswith("abc")
    assert silent == (130, "", "")


def test_an_architecture_that_cannot_be_divided_is_told_with_those_that_can(tmp_path: Path, hosts: Path) -> None:
    path = tiny_model(tmp_path / "model", TinyOptions(model_type="gemma"))
    with started(("run", str(path), "hi", "--json"), hosts) as (first, second):
        told, silent = first.end(), second.end()
    error = checked(told.stdout, told.code)["error"]
    assert error["type"] == "incompatible_model"
    assert {"llama", "qwen2", "qwen3_next"} <= set(error["supported"])
    assert all(name in error["message"] for name in ("gemma", *error["supported"]))
    assert silent == (1, "", "")


def test_figures_that_cannot_be_divided_are_named(tmp_path: Path, hosts: Path) -> None:
    path = tiny_model(tmp_path / "model", TinyOptions(model_type="llama"))
    with started(("run", str(path), "hi", "--json"), hosts, env={"MLXK2_SHARDING": "pipeline"}) as (first, second):
        told, silent = first.end(), second.end()
    error = checked(told.stdout, told.code)["error"]
    assert error["type"] == "incompatible_model"
    assert "between 2 ranks (pipeline: mlx-lm has no such way for it)" in error["message"]
    assert silent == (1, "", "")


def test_what_only_another_rank_cannot_do_is_told_by_rank_0(tmp_path: Path, hosts: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    there.mkdir()
    tiny_model(here / "model")
    with started(("run", "./model", "hi", "--json"), hosts, places={0: here, 1: there}) as (first, second):
        told, silent = first.end(), second.end()
    error = checked(told.stdout, told.code)["error"]
    assert (error["type"], error["rank"]) == ("model_not_found", 1)
    assert error["message"].startswith("rank 1: ")
    assert silent == (1, "", "")


def test_another_model_of_the_same_name_is_noticed(tmp_path: Path, hosts: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    tiny_model(here / "model")
    tiny_model(there / "model", TinyOptions(config={"rope_theta": 5000.0}))
    with started(("run", "./model", "hi", "--json"), hosts, places={0: here, 1: there}) as (first, second):
        told, silent = first.end(), second.end()
    error = checked(told.stdout, told.code)["error"]
    assert (error["type"], error["rank"]) == ("incompatible_model", 1)
    assert error["message"] == "rank 1 has another model than rank 0"
    assert silent == (1, "", "")


def test_another_command_line_is_noticed(tmp_path: Path, hosts: Path) -> None:
    path = tiny_model(tmp_path / "model")
    with started(("run", str(path), "hi", "--json"), hosts, extra={1: ("--max-tokens", "3")}) as (first, second):
        told, silent = first.end(), second.end()
    error = checked(told.stdout, told.code)["error"]
    assert (error["type"], error["message"]) == ("CommandError", "rank 1 has another command line than rank 0")
    assert silent == (2, "", "")


def test_standard_input_that_never_ends_is_no_reason_to_wait(tmp_path: Path, hosts: Path) -> None:
    path = tiny_model(tmp_path / "model")
    with started(("run", str(path), "-", "--json"), hosts, ranks=(0,), env=PATIENCE) as (alone,):
        assert alone.process.wait(PATIENCE_S + OVERHEAD_S) == 2
        told = alone.end()
    error = checked(told.stdout, told.code)["error"]
    assert error["message"].startswith("standard input did not end within 2 s")


def launch(*words: str) -> tuple[str, str]:
    """Run a command under mlx.launch with two ranks; its exit code says nothing."""
    launcher = Path(sys.executable).with_name("mlx.launch")
    ports = free_ports(1)
    command = [str(launcher), "-n", "2", "--backend", "ring", "-p", str(ports[0]), "--", sys.executable, "-m", "mlxk2"]
    ended = subprocess.run(
        [*command, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    return ended.stdout, ended.stderr


def test_it_works_under_mlx_launch(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "model")
    out, err = launch("run", str(path), "hello there", *GREEDY, "--json")
    assert checked(out, 0)["data"]["response"] == answer_of_one(path, *GREEDY)["response"]
    assert err == ""


def test_a_failure_is_told_once_under_mlx_launch(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "model", TinyOptions(model_type="gemma"))
    out, _err = launch("run", str(path), "hi", "--json")
    assert checked(out, 1)["error"]["type"] == "incompatible_model"


def test_a_server_is_refused_by_every_rank_at_once(hosts: Path) -> None:
    with started(("serve", "--port", "0", "--json"), hosts) as ranks:
        ends = [rank.end() for rank in ranks]
    assert [end.code for end in ends] == [2, 2]
    assert checked(ends[0].stdout, 2)["error"]["type"] == "CommandError"
    assert ends[1].stdout == ""
