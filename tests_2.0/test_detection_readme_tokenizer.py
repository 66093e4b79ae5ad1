"""Framework and type: from the card, the config, the weights' metadata, the chat template and the name, in that order."""

from __future__ import annotations

import pytest
from support import cache_builder as build
from support.call import call
from support.isolation import IsolatedCache

PLAIN_CARD = b"# Nothing said\n"
PT = build.safetensors(metadata={"format": "pt"})


def shown(cache: IsolatedCache, name: str, changes: dict[str, bytes | None]) -> dict[str, object]:
    """Plant a plain PyTorch base model with these files changed or left out, and return its model object."""
    files = {**build.chat_model(), "README.md": PLAIN_CARD, "model.safetensors": PT, "tokenizer_config.json": b"{}"}
    for file, content in changes.items():
        files.pop(file, None)
        if content is not None:
            files[file] = content
    build.Repo(cache.hub, name).snapshot(files)
    (model,) = call("list", "--json", env=cache.env).data["models"]
    return dict(model)


def card(text: str) -> dict[str, bytes | None]:
    return {"README.md": f"---\n{text}\n---\n# Model\n".encode()}


def config(**changes: object) -> dict[str, bytes | None]:
    return {"config.json": build.as_json({**build.CONFIG, **changes})}


@pytest.mark.parametrize(
    ("name", "changes", "framework"),
    [
        ("org/plain", {}, "PyTorch"),
        ("org/plain", config(quantization={"bits": 4, "group_size": 64}), "MLX"),
        ("org/plain", config(quantization_config={"bits": 4}), "PyTorch"),
        ("mlx-community/plain", {}, "MLX"),
        ("org/plain", card("library_name: mlx"), "MLX"),
        ("org/plain", card("tags: [a, 'MLX']"), "MLX"),
        ("org/plain", card("tags:\n- a\n- mlx"), "MLX"),
        ("org/plain", card("tags:\n  - a\n  - mlx  # yes"), "MLX"),
        ("org/plain", card("license: mlx\ntags:\n- pytorch"), "PyTorch"),
        ("org/plain", {"README.md": b"library_name: mlx\n"}, "PyTorch"),
        ("org/plain", {"model.safetensors": build.safetensors(metadata={"format": "mlx"})}, "MLX"),
        ("org/plain", {"model.safetensors": None, "x.gguf": b"GGUF" + bytes(9)}, "GGUF"),
        ("org/plain", {"model.safetensors": None, "pytorch_model.bin": b"PK"}, "PyTorch"),
        ("org/plain", {"model.safetensors": None}, "Unknown"),
    ],
)
def test_framework(name: str, changes: dict[str, bytes | None], framework: str, isolated_cache: IsolatedCache) -> None:
    assert shown(isolated_cache, name, changes)["framework"] == framework


@pytest.mark.parametrize(
    ("name", "changes", "kind"),
    [
        ("org/plain", {}, "base"),
        ("org/plain", {"chat_template.jinja": b"{{ x }}"}, "chat"),
        ("org/plain", {"chat_template.json": b'{"chat_template": "x"}'}, "chat"),
        ("org/plain", {"tokenizer_config.json": b'{"chat_template": "x"}'}, "chat"),
        ("org/plain", {"tokenizer_config.json": b'{"chat_template": [{"name": "default", "template": "x"}]}'}, "chat"),
        ("org/plain", {"tokenizer_config.json": b'{"chat_template": null}'}, "base"),
        ("org/plain", {"tokenizer_config.json": b'{"chat_template": ""}'}, "base"),
        ("org/plain", {"tokenizer_config.json": b"\xff not json"}, "base"),
        ("org/Tiny-Instruct-4bit", {}, "chat"),
        ("org/tiny_chat", {}, "chat"),
        ("org/chatty-model", {}, "base"),
        ("chat-org/plain", {}, "base"),
        ("org/plain", card("tags: [conversational]"), "chat"),
        ("org/tiny-embed", {}, "embedding"),
        ("embed-org/plain", {}, "base"),
        ("org/plain", card("pipeline_tag: feature-extraction"), "embedding"),
        ("org/plain", {**card("pipeline_tag: sentence-similarity"), "chat_template.jinja": b"x"}, "embedding"),
        ("org/plain", config(architectures=["XLMRobertaModel"], model_type="xlm-roberta"), "embedding"),
        ("org/plain", config(architectures="BertModel"), "embedding"),
        ("org/plain", config(architectures=[None, 3]), "base"),
    ],
)
def test_type(name: str, changes: dict[str, bytes | None], kind: str, isolated_cache: IsolatedCache) -> None:
    model = shown(isolated_cache, name, changes)
    assert model["model_type"] == kind
    assert {"chat": "chat", "embedding": "embeddings", "base": "text-generation"}[kind] in model["capabilities"]  # type: ignore[operator]


def test_a_broken_tokenizer_json_is_never_parsed(isolated_cache: IsolatedCache) -> None:
    assert shown(isolated_cache, "org/plain", {"tokenizer.json": b"{" * 200_000})["health"] == "healthy"


def test_parameters_of_packed_weights_are_logical(isolated_cache: IsolatedCache) -> None:
    tensors = {
        "a.weight": ("U32", [32, 16]),
        "a.scales": ("BF16", [32, 2]),
        "a.biases": ("BF16", [32, 2]),
        "norm.weight": ("BF16", [128]),
    }
    changes = config(quantization={"bits": 4, "group_size": 64})
    changes["model.safetensors"] = build.safetensors(tensors)
    model = shown(isolated_cache, "org/plain", changes)
    assert model["parameters"] == 32 * 128 + 128
    assert model["quantization"] == {"bits": 4, "group_size": 64, "mode": "affine"}
