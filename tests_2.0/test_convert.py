"""`convert` on GGUF files: the numbers, the text and the tokens are those that the file demands; what it does not
know it refuses by name; the target is complete or absent."""

from __future__ import annotations

import json
import math
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from support.call import Result, call
from support.gguf_builder import (
    Tensor,
    TinyGguf,
    gguf_bytes,
    metadata_of,
    reference,
    tensors_of,
    tiny_gguf,
)
from support.greedy import greedy_ids
from support.safetensors_reader import multiplied_out, read_safetensors
from support.tiny_model import write_safetensors

from mlxk2.operations.convert import ConvertPlan, ConvertRequest, execute, plan

pytestmark = pytest.mark.mlx_real
PLAIN = ("--dequantize", "--dtype", "float32")


def convert(source: Path, target: Path, *flags: str) -> Result:
    return call("convert", str(source), str(target), "--json", *flags)


def converted(source: Path, target: Path, *flags: str) -> dict[str, Any]:
    """Convert and return the answer's data."""
    result = convert(source, target, *flags)
    assert result.code == 0, result.stdout
    data: dict[str, Any] = result.data
    return data


def refused(source: Path, target: Path, *flags: str) -> dict[str, Any]:
    """Convert in vain and return the error; nothing may be left behind."""
    before = sorted(os.listdir(target.parent)) if target.parent.is_dir() else None
    result = convert(source, target, *flags)
    assert result.code != 0
    assert (sorted(os.listdir(target.parent)) if target.parent.is_dir() else None) == before
    error: dict[str, Any] = result.error
    return error


def planned(source: Path, target: Path) -> ConvertPlan:
    return plan(ConvertRequest("m.gguf", source, "out", target))


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2"])
@pytest.mark.parametrize("kind", ["F32", "F16", "Q4_0", "Q4_1", "Q8_0"])
def test_dequantized_numbers_are_exactly_the_files(tmp_path: Path, architecture: str, kind: str) -> None:
    options = TinyGguf(architecture=architecture, kind=kind)
    data = converted(tiny_gguf(tmp_path / "m.gguf", options), tmp_path / "out", *PLAIN)
    arrays, metadata = read_safetensors(tmp_path / "out" / "model.safetensors")
    assert arrays == reference(options)
    assert metadata == {"format": "mlx"}
    assert (data["architecture"], data["quantization"], data["dtype"]) == (architecture, None, "float32")
    assert data["tensors"] == len(arrays)


@pytest.mark.parametrize(("kind", "bits"), [("Q4_0", 4), ("Q4_1", 4), ("Q8_0", 8)])
def test_quantized_weights_stay_quantized_and_mean_the_same(tmp_path: Path, kind: str, bits: int) -> None:
    options = TinyGguf(kind=kind)
    data = converted(tiny_gguf(tmp_path / "m.gguf", options), tmp_path / "out", "--dtype", "float32")
    arrays, _ = read_safetensors(tmp_path / "out" / "model.safetensors")
    assert len(arrays["model.layers.0.self_attn.q_proj.weight"][1]) == 64 * 64 * bits // 32
    originals = reference(options)
    for name, (shape, values) in multiplied_out(arrays).items():
        expected_shape, expected = originals[name]
        assert shape == expected_shape
        assert values == pytest.approx(expected, abs=1e-6)
    assert data["quantization"] == {"bits": bits, "group_size": 32, "mode": "affine"}
    assert read_json(tmp_path / "out" / "config.json")["quantization"] == {
        "group_size": 32,
        "bits": bits,
        "mode": "affine",
    }


def test_tensors_with_other_bits_are_named_in_the_config(tmp_path: Path) -> None:
    options = TinyGguf(kind="Q4_0", kinds={"token_embd.weight": "Q8_0", "output.weight": "F16"})
    converted(tiny_gguf(tmp_path / "m.gguf", options), tmp_path / "out")
    quantization = read_json(tmp_path / "out" / "config.json")["quantization"]
    eight = {"group_size": 32, "bits": 8}
    assert quantization == {"group_size": 32, "bits": 4, "mode": "affine", "model.embed_tokens": eight}
    assert greedy_ids(tmp_path / "out", [5, 9, 20], 8)


@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2"])
@pytest.mark.parametrize("kind", ["F32", "Q4_1"])
def test_greedy_tokens_are_those_of_a_folder_built_by_hand(tmp_path: Path, architecture: str, kind: str) -> None:
    """The reference never went through GGUF's row order, so a wrong RoPE order shows."""
    options = TinyGguf(architecture=architecture, kind=kind, seed=3)
    converted(tiny_gguf(tmp_path / "m.gguf", options), tmp_path / "out", "--dtype", "float32")
    by_hand = tmp_path / "by-hand"
    by_hand.mkdir()
    config = read_json(tmp_path / "out" / "config.json")
    config.pop("quantization", None)
    config.pop("quantization_config", None)
    (by_hand / "config.json").write_text(json.dumps(config), encoding="utf-8")
    from array import array

    write_safetensors(
        by_hand / "model.safetensors", {name: (shape, array("f", v)) for name, (shape, v) in reference(options).items()}
    )
    prompt = [7, 100, 33, 250, 12, 64, 9]
    expected = greedy_ids(by_hand, prompt, 24)
    assert greedy_ids(tmp_path / "out", prompt, 24) == expected
    assert len(set(expected)) > 2


def test_config_says_what_the_metadata_say(tmp_path: Path) -> None:
    options = TinyGguf(tied=True, biased=True, metadata={"tokenizer.ggml.eot_token_id": 3})
    converted(tiny_gguf(tmp_path / "m.gguf", options), tmp_path / "out")
    config = read_json(tmp_path / "out" / "config.json")
    expected = {
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "rope_scaling": None,
        "max_position_embeddings": 256, "vocab_size": 266, "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": False,
        "torch_dtype": "float32", "eos_token_id": [1, 3], "bos_token_id": 0,
    }  # fmt: skip
    assert {key: config[key] for key in expected} == expected
    assert read_json(tmp_path / "out" / "generation_config.json") == {"bos_token_id": 0, "eos_token_id": [1, 3]}
    assert greedy_ids(tmp_path / "out", [5, 9, 20], 4)


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"llama.rope.scaling.type": "none"}, None),
        ({"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        ({"llama.rope.scale_linear": 2.0}, {"rope_type": "linear", "factor": 2.0}),
        (
            {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 8.0, "llama.rope.scaling.original_context_length": 64},
            {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64},
        ),
    ],
)  # fmt: skip
def test_rope_scaling_is_taken_over(tmp_path: Path, metadata: dict[str, Any], expected: dict[str, Any] | None) -> None:
    converted(tiny_gguf(tmp_path / "m.gguf", TinyGguf(metadata=metadata)), tmp_path / "out")
    scaling = read_json(tmp_path / "out" / "config.json")["rope_scaling"]
    assert scaling == (expected and {**expected, "type": expected["rope_type"]})
    assert greedy_ids(tmp_path / "out", [5, 9, 20], 4)


def rope_factors(factor: float, theta: float = 500_000.0, size: int = 16) -> bytes:
    """Llama 3's stretching of long waves: none above 8192/4 turns, all of it below 8192/1, a ramp between."""
    values = []
    for i in range(size // 2):
        turns = 8192 / (2 * math.pi * theta ** (2 * i / size))
        ramp = min(1.0, max(0.0, (turns - 1) / 3))
        values.append(1 / ((1 - ramp) / factor + ramp))
    return struct.pack(f"<{len(values)}f", *values)


def test_llama_3_scaling_is_recognised_by_its_factors(tmp_path: Path) -> None:
    options = TinyGguf(metadata={"llama.rope.freq_base": 500_000.0})
    factors = Tensor("rope_freqs.weight", (8,), "F32", rope_factors(32.0))
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes(metadata_of(options), [*tensors_of(options), factors]))
    converted(path, tmp_path / "out")
    scaling = read_json(tmp_path / "out" / "config.json")["rope_scaling"]
    assert (scaling["rope_type"], scaling["factor"], scaling["original_max_position_embeddings"]) == (
        "llama3",
        32.0,
        8192,
    )
    other = Tensor("rope_freqs.weight", (8,), "F32", struct.pack("<8f", *range(1, 9)))
    path.write_bytes(gguf_bytes(metadata_of(options), [*tensors_of(options), other]))
    assert "rule" in refused(path, tmp_path / "out2")["message"]


def test_the_folder_is_a_whole_model(tmp_path: Path) -> None:
    data = converted(tiny_gguf(tmp_path / "m.gguf"), tmp_path / "out")
    names = {
        "README.md", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    files = {path.name: path.stat().st_size for path in (tmp_path / "out").iterdir()}
    assert files.keys() == names
    assert (data["files"], data["bytes"]) == (7, sum(files.values()))
    assert data["target_dir"] == os.path.realpath(tmp_path / "out")
    readme = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    for line in ("library_name: mlx", "pipeline_tag: text-generation", "license: apache-2.0", "- mlx"):
        assert line in readme.splitlines()


def test_no_licence_is_claimed_that_the_file_does_not_state(tmp_path: Path) -> None:
    options = TinyGguf(metadata={"general.license": None, "general.name": "x\n---\nlicense: mit"})
    converted(tiny_gguf(tmp_path / "m.gguf", options), tmp_path / "out")
    lines = (tmp_path / "out" / "README.md").read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if line.startswith("license")]
    assert lines.count("---") == 2


@pytest.mark.parametrize(
    ("kind", "dtype", "expected"), [("F16", (), "F16"), ("F32", (), "F32"), ("F32", ("--dtype", "float16"), "F16")]
)
def test_plain_weights_keep_their_type_or_take_the_one_asked_for(
    tmp_path: Path, kind: str, dtype: tuple[str, ...], expected: str
) -> None:
    converted(tiny_gguf(tmp_path / "m.gguf", TinyGguf(kind=kind)), tmp_path / "out", *dtype)
    raw = (tmp_path / "out" / "model.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + struct.unpack_from("<Q", raw)[0]])
    header.pop("__metadata__")
    assert {entry["dtype"] for entry in header.values()} == {expected}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (TinyGguf(architecture="gemma"), ["'gemma'"]),
        (TinyGguf(hidden=256, kind="Q4_K", inner=256), ["Q4_K", "blk.0."]),
        (TinyGguf(hidden=256, kind="Q4_0", inner=256, kinds={"output.weight": "Q6_K"}), ["Q6_K", "output.weight"]),
        (TinyGguf(kind="Q5_0"), ["Q5_0"]),
        (TinyGguf(kind="BF16"), ["BF16"]),
        (TinyGguf(pre="jais"), ["'jais'"]),
        (TinyGguf(metadata={"split.count": 2}), ["split"]),
        (TinyGguf(metadata={"llama.expert_count": 8}), ["experts"]),
        (TinyGguf(metadata={"llama.attention.sliding_window": 64}), ["sliding-window"]),
        (TinyGguf(metadata={"llama.rope.scaling.type": "longrope", "llama.rope.scaling.factor": 2.0}), ["'longrope'"]),
        (TinyGguf(metadata={"tokenizer.ggml.model": "bert"}), ["'bert'"]),
        (TinyGguf(metadata={"tokenizer.ggml.model": None}), ["no tokenizer"]),
        (TinyGguf(metadata={"llama.rope.dimension_count": 8}), ["part of each head"]),
    ],
)
def test_what_convert_does_not_know_is_refused_by_name(tmp_path: Path, options: TinyGguf, words: list[str]) -> None:
    error = refused(tiny_gguf(tmp_path / "m.gguf", options), tmp_path / "out")
    assert error["type"] == "unsupported_format"
    assert not [word for word in words if word not in error["message"]], error["message"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (TinyGguf(without=("blk.1.attn_k.weight",)), "blk.1.attn_k.weight"),
        (TinyGguf(without=("token_embd.weight",)), "token_embd.weight"),
        (TinyGguf(metadata={"llama.block_count": None}), "'llama.block_count' is missing"),
        (TinyGguf(metadata={"llama.block_count": "two"}), "llama.block_count"),
        (TinyGguf(metadata={"llama.embedding_length": 128}), "shape"),
        (TinyGguf(metadata={"llama.attention.head_count_kv": 3}), "head_count_kv"),
        (TinyGguf(metadata={"llama.attention.head_count": 0}), "head_count"),
        (TinyGguf(metadata={"llama.attention.layer_norm_rms_epsilon": float("nan")}), "epsilon"),
        (TinyGguf(metadata={"tokenizer.ggml.eos_token_id": 9999}), "eos_token_id"),
        (TinyGguf(metadata={"tokenizer.ggml.tokens": ["a", "a"]}), "twice"),
        (TinyGguf(metadata={"tokenizer.ggml.tokens": [1, 2]}), "tokens"),
        (TinyGguf(metadata={"tokenizer.ggml.token_type": [1, 1]}), "token_type"),
        (TinyGguf(metadata={"tokenizer.ggml.merges": ["nothing"]}), "merges"),
        (TinyGguf(metadata={"tokenizer.ggml.merges": ["q q"]}), "merges"),
        (TinyGguf(tokenizer="llama", metadata={"tokenizer.ggml.scores": [1.0]}), "scores"),
        (TinyGguf(metadata={"tokenizer.chat_template": 7}), "chat_template"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(tmp_path: Path, options: TinyGguf, words: str) -> None:
    error = refused(tiny_gguf(tmp_path / "m.gguf", options), tmp_path / "out")
    assert error["type"] == "invalid_source"
    assert words in error["message"]


def test_other_files_are_not_taken_for_gguf(tmp_path: Path) -> None:
    for name in ("notes.txt", "m.gguf"):
        (tmp_path / name).write_text("hello", encoding="utf-8")
        assert refused(tmp_path / name, tmp_path / "out")["type"] == "invalid_source"


@pytest.mark.parametrize(
    "flags",
    [
        ("--bits", "7"),
        ("--bits", "4", "--group-size", "48"),
        ("--dequantize", "--bits", "4"),
        ("--bits", "4"),
        ("--bits", "0"),
    ],
)
def test_flags_that_make_no_sense_are_usage_errors(tmp_path: Path, flags: tuple[str, ...]) -> None:
    result = convert(tiny_gguf(tmp_path / "m.gguf"), tmp_path / "out", *flags)
    assert (result.code, result.error["type"]) == (2, "CommandError")
    assert not (tmp_path / "out").exists()


def test_the_target_must_be_free(tmp_path: Path) -> None:
    source = tiny_gguf(tmp_path / "m.gguf")
    filled, file = tmp_path / "filled", tmp_path / "file"
    filled.mkdir()
    (filled / "mine").write_text("keep", encoding="utf-8")
    file.write_text("keep", encoding="utf-8")
    for target in (filled, file, file / "below"):
        assert refused(source, target)["type"] == "InvalidTargetError"
    assert (filled / "mine").read_text(encoding="utf-8") == file.read_text(encoding="utf-8") == "keep"


def test_an_empty_folder_and_missing_parents_are_fine(tmp_path: Path) -> None:
    source = tiny_gguf(tmp_path / "m.gguf")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty2")
    for name in ("empty", "a/b/c", "link"):
        converted(source, tmp_path / name)
        assert (tmp_path / name / "config.json").is_file()
    assert (tmp_path / "link").is_symlink()


def test_too_little_space_is_said_with_both_figures(tmp_path: Path) -> None:
    rows = 2**31 - 1
    path = huge_gguf(tmp_path / "m.gguf", rows=rows, columns=128)
    error = refused(path, tmp_path / "out")
    assert error["type"] == "insufficient_space"
    assert error["detail"]["needed_bytes"] > rows * 128 * 4 > error["detail"]["free_bytes"]
    assert "TB" in error["message"]


def huge_gguf(path: Path, rows: int, columns: int) -> Path:
    """A sound file whose embedding is a hole of any size."""
    options = TinyGguf(hidden=columns, layers=1, tied=True)
    sound = tensors_of(options)
    assert sound[0].name == "token_embd.weight"
    others = gguf_bytes(metadata_of(options), [*sound[1:], Tensor("token_embd.weight", (1, columns), "F32", b"")])
    marker = b"token_embd.weight" + struct.pack("<IQ", 2, columns)
    at = others.index(marker) + len(marker)
    path.write_bytes(others[:at] + struct.pack("<Q", rows) + others[at + 8 :])
    os.truncate(path, len(others) + rows * columns * 4 + 4096)
    return path


def test_progress_ends_with_all_bytes(tmp_path: Path) -> None:
    chosen = planned(tiny_gguf(tmp_path / "m.gguf"), tmp_path / "out")
    _, *events = execute(chosen)
    assert (events[-1].done, events[-1].total, events[-1].unit) == (chosen.size_bytes, chosen.size_bytes, "bytes")  # type: ignore[union-attr]
    assert [event.done for event in events] == sorted(event.done for event in events)  # type: ignore[union-attr]
