"""Whatever ends a conversion before its time, the target is complete or absent, and what others put there stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.gguf_builder import tiny_gguf

from mlxk2.errors import InvalidSource
from mlxk2.operations.convert import ConvertPlan, ConvertRequest, execute, plan

pytestmark = pytest.mark.mlx_real


def planned(source: Path, target: Path) -> ConvertPlan:
    return plan(ConvertRequest("m.gguf", source, "out", target))


def test_a_source_that_shrinks_meanwhile_leaves_nothing(tmp_path: Path) -> None:
    source = tiny_gguf(tmp_path / "m.gguf")
    chosen = planned(source, tmp_path / "a" / "out")
    os.truncate(source, source.stat().st_size - 4096)
    with pytest.raises(InvalidSource, match="while it was being read"):
        list(execute(chosen))
    assert os.listdir(tmp_path) == ["m.gguf"]


def test_a_target_that_is_filled_meanwhile_is_not_touched(tmp_path: Path) -> None:
    steps = execute(planned(tiny_gguf(tmp_path / "m.gguf"), tmp_path / "out"))
    next(steps)
    next(steps)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("keep", encoding="utf-8")
    with pytest.raises(Exception, match="filled by somebody else"):
        list(steps)
    assert sorted(os.listdir(tmp_path)) == ["m.gguf", "out"]
    assert os.listdir(tmp_path / "out") == ["mine"]


def test_an_interrupt_between_two_tensors_leaves_nothing(tmp_path: Path) -> None:
    steps = execute(planned(tiny_gguf(tmp_path / "m.gguf"), tmp_path / "out"))
    for _ in range(4):
        next(steps)
    assert len(os.listdir(tmp_path)) == 2
    with pytest.raises(KeyboardInterrupt):
        steps.throw(KeyboardInterrupt())
    assert os.listdir(tmp_path) == ["m.gguf"]


# Says through a pipe that the weights are there, and then takes its time.
WAITING = """
import os, sys, time
import mlx.core as mx
save = mx.save_safetensors
def waiting(*args, **options):
    save(*args, **options)
    os.write(int(sys.argv[1]), b"x")
    while True:
        time.sleep(0.05)
mx.save_safetensors = waiting
from mlxk2.cli import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing_and_exits_130(tmp_path: Path, number: signal.Signals) -> None:
    tiny_gguf(tmp_path / "m.gguf")
    told, tell = os.pipe()
    command = [sys.executable, "-c", WAITING, str(tell), "convert", "m.gguf", "a/b/out", "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, pass_fds=(tell,), cwd=tmp_path
    ) as process:
        os.close(tell)
        assert os.read(told, 1) == b"x"
        os.close(told)
        assert sorted(os.listdir(tmp_path)) == ["a", "m.gguf"]
        process.send_signal(number)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert json.loads(out)["error"]["type"] == "interrupted"
    assert os.listdir(tmp_path) == ["m.gguf"]
