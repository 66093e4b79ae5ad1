"""Which models can be divided between machines, how much of them each one holds, and what one process knows of others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest_runner import files_of
from support.call import call
from support.tiny_model import TinyOptions, tiny_model

from mlxk2.errors import InsufficientMemory
from mlxk2.inspection.sharding import (
    PIPELINE,
    TENSOR,
    divisible_modules,
    obstacle,
    part_bytes,
    share_of_layers,
    ways_to_divide,
)
from mlxk2.operations.run import RunOptions, prepare
from mlxk2.runner.request import Sampling
from mlxk2.settings import RankSettings, Settings
from mlxk2.store.model_ref import WORKSPACE, ModelRef

SOURCES = {
    "plain": "class Model(nn.Module):\n    def forward(self):\n        pass\n",
    "both": "class Inner(PipelineMixin, nn.Module):\n    pass\n\nclass Model(nn.Module):\n    def shard(self, group):\n        pass\n",
    "tensor": "class Model(nn.Module):\n    def shard(self, group=None):\n        pass\n",
    "alias": "from .both import Model  # noqa: F401\n",
    "child": "from .tensor import Model as Parent\n\nclass Model(Parent):\n    pass\n",
    "dotted": "from . import both\n\nclass Model(both.Model):\n    pass\n",
    "layers": "class Inner(nn.Module):\n    def pipeline(self, group):\n        pass\n\nclass Model(nn.Module):\n    pass\n",
    "knot": "from .knot import Model\n",
}


@pytest.fixture
def package(tmp_path: Path) -> str:
    """An mlx-lm of this test's own."""
    models = tmp_path / "mlx_lm" / "models"
    models.mkdir(parents=True)
    for name, source in SOURCES.items():
        (models / f"{name}.py").write_text(source, encoding="utf-8")
    return str(tmp_path / "mlx_lm")


@pytest.mark.parametrize(
    ("module", "ways"),
    [
        ("plain", ()),
        ("both", (TENSOR, PIPELINE)),
        ("tensor", (TENSOR,)),
        ("alias", (TENSOR, PIPELINE)),
        ("child", (TENSOR,)),
        ("dotted", (TENSOR, PIPELINE)),
        ("layers", (PIPELINE,)),
        ("knot", ()),
        ("missing", ()),
    ],
)
def test_ways_are_read_off_the_sources(package: str, module: str, ways: tuple[str, ...]) -> None:
    assert ways_to_divide(package, module) == ways


def test_modules_that_can_be_divided_are_named(package: str) -> None:
    assert divisible_modules(package) == ("alias", "both", "child", "dotted", "layers", "tensor")


def model(path: Path, **config: Any) -> Path:
    return tiny_model(path / "model", TinyOptions(config=config))


@pytest.mark.parametrize(
    ("config", "size", "words"),
    [
        ({}, 2, None),
        ({}, 3, "its 4 attention heads cannot be divided by 3"),
        ({"num_key_value_heads": 1}, 2, "its 1 key-value heads cannot be divided by 2"),
        ({"text_config": {"num_attention_heads": 5}}, 2, "its 5 attention heads cannot be divided by 2"),
    ],
)
def test_heads_must_be_divisible(tmp_path: Path, package: str, config: Any, size: int, words: str | None) -> None:
    assert obstacle(files_of(model(tmp_path, **config)), package, TENSOR, size) == words


def test_layers_must_be_enough_and_listed(tmp_path: Path, package: str) -> None:
    path = model(tmp_path)
    assert "one file, without the index" in (obstacle(files_of(path), package, PIPELINE, 2) or "")
    (path / "model.safetensors.index.json").write_text("{}", encoding="utf-8")
    assert obstacle(files_of(path), package, PIPELINE, 2) is None
    assert obstacle(files_of(path), package, PIPELINE, 3) == "it has only 2 layers"


@pytest.mark.parametrize(
    ("way", "layers", "size", "share"),
    [(TENSOR, 30, 4, 0.25), (PIPELINE, 30, 4, 8 / 30), (PIPELINE, 30, 2, 0.5), (PIPELINE, None, 2, 0.5)],
)
def test_share_is_that_of_the_busiest_rank(way: str, layers: int | None, size: int, share: float) -> None:
    config = {} if layers is None else {"num_hidden_layers": layers}
    assert share_of_layers(config, way, size) == pytest.approx(share)


def test_layers_are_divided_and_the_rest_is_whole(tmp_path: Path) -> None:
    files = files_of(model(tmp_path))
    inside = outside = 0
    for header in files.headers.values():
        for name, tensor in header.tensors.items():  # type: ignore[union-attr]
            size = tensor["data_offsets"][1] - tensor["data_offsets"][0]
            inside, outside = (inside + size, outside) if ".layers." in name else (inside, outside + size)
    assert inside > 0
    assert outside > 0
    assert part_bytes(files, 1.0) == inside + outside
    assert part_bytes(files, 0.5) == outside + inside / 2


def test_a_rank_needs_memory_for_its_share_only(tmp_path: Path) -> None:
    path = model(tmp_path, max_position_embeddings=4096)
    ref = ModelRef("model", path, None, WORKSPACE)
    options = RunOptions("hi", None, Sampling(), max_tokens=2048)
    with pytest.raises(InsufficientMemory) as refused:
        prepare(ref, options, memory_limit=1)
    needed = refused.value.extra["required_bytes"]
    with pytest.raises(InsufficientMemory):
        prepare(ref, options, memory_limit=needed - 1)
    half = prepare(ref, options, memory_limit=needed - 1, share=0.5)
    whole = prepare(ref, options, memory_limit=needed)
    assert half.memory.demand(2048).kv_bytes == whole.memory.demand(2048).kv_bytes / 2


RING = {"MLX_RANK": "1", "MLX_HOSTFILE": "/hosts.json"}


@pytest.mark.parametrize(
    ("environ", "ranks"),
    [
        ({}, None),
        ({"MLX_RANK": "1"}, None),
        ({"MLX_HOSTFILE": "/hosts.json"}, None),
        ({**RING, "MLX_RANK": "one"}, None),
        (RING, RankSettings(1, "ring", Path("/hosts.json"))),
        ({**RING, "MLXK2_PEER_TIMEOUT": "2.5"}, RankSettings(1, "ring", Path("/hosts.json"), 2.5)),
        ({**RING, "MLXK2_PEER_TIMEOUT": "soon"}, RankSettings(1, "ring", Path("/hosts.json"))),
        ({**RING, "MLXK2_SHARDING": "Pipeline"}, RankSettings(1, "ring", Path("/hosts.json"), sharding="pipeline")),
        ({**RING, "MLXK2_SHARDING": "maybe"}, RankSettings(1, "ring", Path("/hosts.json"))),
        ({"MLX_RANK": "0", "MLX_JACCL_COORDINATOR": "a:1", "MLX_IBV_DEVICES": "/d"}, RankSettings(0, "jaccl")),
        (
            {"MLX_RANK": "0", "MLX_WORLD_SIZE": "2", "NCCL_HOST_IP": "a", "NCCL_PORT": "1"},
            RankSettings(0, "nccl"),
        ),
    ],
)
def test_ranks_are_read_from_the_environment(environ: dict[str, str], ranks: RankSettings | None) -> None:
    assert Settings.from_env({"HOME": "/home/u", **environ}).ranks == ranks


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "one argument"),
        (("hi", "there"), "one argument"),
        (("hi", "--draft-model", "x"), "--draft-model"),
        (("hi", "--prompt-cache", "x"), "--prompt-cache"),
        (("hi", "--adapter-path", "x"), "--adapter-path"),
        (("",), "empty"),
    ],
)
def test_what_one_machine_must_do_is_refused_before_anybody_waits(
    tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    env = {"HOME": str(tmp_path), "MLX_RANK": "0", "MLX_HOSTFILE": str(hosts_of(tmp_path, 2))}
    told = call("run", "./model", *words, "--json", env=env)
    assert (told.code, told.error["type"]) == (2, "CommandError")
    assert message in told.error["message"]


def test_only_rank_0_speaks_whatever_the_command(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path), "MLX_RANK": "1", "MLX_HOSTFILE": str(hosts_of(tmp_path, 2))}
    for words in (("version",), ("run", "./model"), ("nonsense",)):
        told = call(*words, env=env)
        assert (told.stdout, told.stderr) == ("", "")
    assert call("version", env={**env, "MLX_RANK": "0"}).stdout != ""


def test_a_list_of_addresses_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path), "MLX_RANK": "0", "MLX_HOSTFILE": str(tmp_path / "nowhere")}
    told = call("run", "./model", "hi", "--json", env=env)
    assert (told.code, told.error["type"]) == (2, "CommandError")
    assert "MLX_HOSTFILE cannot be read" in told.error["message"]


@pytest.mark.parametrize("text", ["", "\n", '[["127.0.0.1:1"]]'])
def test_a_single_rank_is_no_group(tmp_path: Path, text: str) -> None:
    """As `mlx.launch -n 1` starts it; it then fails like any run, since there is no such model."""
    hosts = tmp_path / "hosts.json"
    hosts.write_text(text, encoding="utf-8")
    env = {"HOME": str(tmp_path), "MLX_RANK": "0", "MLX_HOSTFILE": str(hosts)}
    told = call("run", str(tmp_path / "nothing"), "hi", "--json", env=env)
    assert told.error["type"] == "model_not_found"
    assert "rank" not in told.error


def hosts_of(folder: Path, size: int) -> Path:
    path = folder / "hosts.json"
    path.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in range(1, size + 1)]), encoding="utf-8")
    return path
