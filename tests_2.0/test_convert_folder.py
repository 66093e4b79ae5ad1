"""`convert` on model folders: a quantized or plain copy through mlx-lm, never with code from the folder, complete or absent."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from support.call import Result, call
from support.gguf_builder import TinyGguf, tiny_gguf
from support.greedy import greedy_ids
from support.isolation import IsolatedCache
from support.safetensors_reader import multiplied_out, read_safetensors
from support.tiny_model import TinyOptions, tiny_model

pytestmark = pytest.mark.mlx_real


def convert(source: object, target: Path, *flags: str, **options: Any) -> Result:
    return call("convert", str(source), str(target), "--json", *flags, **options)


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.write_text(json.dumps(config), encoding="utf-8")


def read_config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_a_quantized_copy_runs_and_says_what_it_is(tmp_path: Path, bits: int) -> None:
    source = tiny_model(tmp_path / "plain")
    result = convert(source, tmp_path / "out", "--bits", str(bits), "--group-size", "32")
    assert result.code == 0, result.stdout
    quantization = {"group_size": 32, "bits": bits, "mode": "affine"}
    assert result.data["quantization"] == quantization
    assert (result.data["source_format"], result.data["architecture"]) == ("mlx", "llama")
    assert {key: read_config(tmp_path / "out")["quantization"][key] for key in quantization} == quantization
    shown = call("show", str(tmp_path / "out"), "--json")
    assert shown.data["model"]["health"] == "healthy"
    assert shown.data["model"]["quantization"] == quantization
    assert len(greedy_ids(tmp_path / "out", [5, 9, 20], 4)) == 4


def test_eight_bits_are_close_to_the_original(tmp_path: Path) -> None:
    source = tiny_model(tmp_path / "plain")
    convert(source, tmp_path / "out", "--bits", "8", "--group-size", "32")
    original, _ = read_safetensors(source / "model.safetensors")
    copy, metadata = read_safetensors(tmp_path / "out" / "model.safetensors")
    assert metadata == {"format": "mlx"}
    for name, (shape, values) in multiplied_out(copy).items():
        assert shape == original[name][0]
        assert values == pytest.approx(original[name][1], abs=0.01)


def test_dequantizing_gives_the_numbers_that_the_levels_stood_for(tmp_path: Path) -> None:
    source = tiny_model(tmp_path / "plain")
    convert(source, tmp_path / "small", "--bits", "4", "--group-size", "32")
    result = convert(tmp_path / "small", tmp_path / "out", "--dequantize")
    assert (result.code, result.data["quantization"]) == (0, None)
    assert not {"quantization", "quantization_config"} & read_config(tmp_path / "out").keys()
    expected = multiplied_out(read_safetensors(tmp_path / "small" / "model.safetensors")[0])
    for name, (shape, values) in read_safetensors(tmp_path / "out" / "model.safetensors")[0].items():
        assert shape == expected[name][0]
        assert values == pytest.approx(expected[name][1], abs=1e-5)


def test_dtype_alone_makes_a_plain_copy(tmp_path: Path) -> None:
    result = convert(tiny_model(tmp_path / "plain"), tmp_path / "out", "--dtype", "float16")
    assert (result.data["dtype"], result.data["quantization"]) == ("float16", None)


def test_texts_go_along_and_code_stays_behind(tmp_path: Path) -> None:
    source = tiny_model(tmp_path / "plain", TinyOptions(eos_in_config=1, eos_in_generation_config=2))
    (source / "README.md").write_text("---\nlibrary_name: mlx\n---\n", encoding="utf-8")
    (source / "modeling_own.py").write_text("raise SystemExit('never run')", encoding="utf-8")
    change_config(source, auto_map={"AutoModelForCausalLM": "modeling_own.Model"})
    assert convert(source, tmp_path / "out", "--bits", "4", "--group-size", "32").code == 0
    names = set(os.listdir(tmp_path / "out"))
    assert names >= {"README.md", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json"}
    assert not [name for name in names if name.endswith(".py")]
    assert read_config(tmp_path / "out")["eos_token_id"] == 1
    assert "auto_map" not in read_config(tmp_path / "out")


def test_code_in_the_folder_is_never_run(tmp_path: Path) -> None:
    source = tiny_model(tmp_path / "plain")
    canary = tmp_path / "canary"
    (source / "own.py").write_text(f"open({str(canary)!r}, 'w')", encoding="utf-8")
    change_config(source, model_file="own.py")
    result = convert(source, tmp_path / "out", "--bits", "4", "--group-size", "32")
    assert (result.code, result.error["type"]) == (1, "incompatible_model")
    assert not canary.exists()
    assert not (tmp_path / "out").exists()


def test_broken_and_foreign_models_are_refused_with_nothing_left(tmp_path: Path) -> None:
    truncated = tiny_model(tmp_path / "truncated")
    os.truncate(truncated / "model.safetensors", 1000)
    unknown = tiny_model(tmp_path / "unknown")
    change_config(unknown, model_type="nobody_knows_this")
    for source, kind in ((truncated, "model_unhealthy"), (unknown, "incompatible_model")):
        result = convert(source, tmp_path / "out", "--bits", "4", "--group-size", "32")
        assert (result.code, result.error["type"]) == (1, kind)
    assert sorted(os.listdir(tmp_path)) == ["truncated", "unknown"]


def test_a_quantized_model_is_not_quantized_again(tmp_path: Path) -> None:
    convert(tiny_model(tmp_path / "plain"), tmp_path / "small", "--bits", "4", "--group-size", "32")
    result = convert(tmp_path / "small", tmp_path / "out", "--bits", "8", "--group-size", "32")
    assert result.code == 2
    assert "--dequantize" in result.error["hint"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "already"),
        (("--dequantize",), "not quantized"),
        (("--bits", "4", "--group-size", "128"), "does not divide"),
    ],
)
def test_a_change_that_is_none_or_cannot_be_is_a_usage_error(
    tmp_path: Path, flags: tuple[str, ...], words: str
) -> None:
    source = tiny_model(tmp_path / "plain")
    result = convert(source, tmp_path / "out", *flags)
    assert (result.code, result.error["type"]) == (2, "CommandError")
    assert words in result.error["message"]
    assert os.listdir(tmp_path) == ["plain"]


def test_a_target_in_the_source_is_refused(tmp_path: Path) -> None:
    source = tiny_model(tmp_path / "plain")
    result = convert(source, source / "small", "--bits", "4", "--group-size", "32")
    assert result.error["type"] == "InvalidTargetError"


def test_a_model_of_the_cache_is_a_source_and_stays_as_it_is(isolated_cache: IsolatedCache, tmp_path: Path) -> None:
    snapshot = isolated_cache.hub / "models--mlx-community--Tiny" / "snapshots" / ("a" * 40)
    tiny_model(snapshot)
    before = {path.name: path.read_bytes() for path in snapshot.iterdir()}
    result = convert("Tiny", tmp_path / "out", "--bits", "4", "--group-size", "32", env=isolated_cache.env)
    assert (result.code, result.data["source"]) == (0, "Tiny")
    assert {path.name: path.read_bytes() for path in snapshot.iterdir()} == before


def test_a_folder_with_one_gguf_is_that_gguf_and_with_several_a_question(tmp_path: Path) -> None:
    folder = tmp_path / "ggufs"
    folder.mkdir()
    tiny_gguf(folder / "a.gguf", TinyGguf(kind="Q4_0"))
    assert convert(folder, tmp_path / "out").data["source_format"] == "gguf"
    tiny_gguf(folder / "b.gguf")
    result = convert(folder, tmp_path / "out2")
    assert result.code == 2
    assert "a.gguf, b.gguf" in result.error["message"]


def test_a_source_that_is_not_there(tmp_path: Path, isolated_cache: IsolatedCache) -> None:
    for source in ("none.gguf", "./none"):
        missing = convert(source, tmp_path / "out", env=isolated_cache.env)
        assert (missing.code, missing.error["type"]) == (1, "model_not_found")


def test_a_target_without_a_name_is_not_this_folder(tmp_path: Path, isolated_cache: IsolatedCache) -> None:
    assert convert("none.gguf", "", env=isolated_cache.env).error["message"] == "the target has no name"


def test_a_source_that_is_no_file(tmp_path: Path, isolated_cache: IsolatedCache) -> None:
    os.mkfifo(tmp_path / "fifo.gguf")
    for source in (tmp_path / "fifo.gguf", "/dev/null"):
        refused = convert(str(source), tmp_path / "out", env=isolated_cache.env)
        assert (refused.code, refused.error["type"]) == (1, "invalid_source")
