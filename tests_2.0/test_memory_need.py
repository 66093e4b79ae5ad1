"""What memory a model needs: weights as the headers say, KV cache as the config says."""

from __future__ import annotations

from typing import Any

import pytest
from support import cache_builder as build
from support.call import call
from support.isolation import IsolatedCache

from mlxk2.inspection.memory import kv_bytes

LLAMA_8B = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096}


@pytest.mark.parametrize(
    ("config", "tokens", "expected"),
    [
        ({**LLAMA_8B, "torch_dtype": "bfloat16"}, 8192, 1024 * 2**20),
        ({**LLAMA_8B, "torch_dtype": "float32"}, 8192, 2048 * 2**20),
        ({**LLAMA_8B, "head_dim": 64}, 8192, 512 * 2**20),
        ({"text_config": LLAMA_8B}, 8192, 1024 * 2**20),
        (LLAMA_8B, 1, 1024 * 2**20 * 256 // 8192),
        (LLAMA_8B, 257, 1024 * 2**20 * 512 // 8192),
        (LLAMA_8B, 0, 0),
        ({"n_layer": 12, "n_head": 12, "n_embd": 768}, 256, 2 * 12 * 768 * 2 * 256),
        ({**LLAMA_8B, "kv_lora_rank": 512, "qk_rope_head_dim": 64}, 256, 32 * 576 * 2 * 256),
        ({**LLAMA_8B, "layer_types": ["linear_attention"] * 24 + ["full_attention"] * 8}, 8192, 256 * 2**20),
        (
            {**LLAMA_8B, "sliding_window": 512, "layer_types": ["sliding_attention"] * 16 + ["full_attention"] * 16},
            8192,
            512 * 2**20 + 32 * 2**20,
        ),
        ({}, 256, None),
        ({"num_hidden_layers": 4}, 256, None),
        ({**LLAMA_8B, "num_key_value_heads": [8, 4]}, 256, None),
        ({**LLAMA_8B, "num_hidden_layers": True}, 256, None),
    ],
)
def test_kv_cache(config: dict[str, Any], tokens: int, expected: int | None) -> None:
    assert kv_bytes(config, tokens) == expected


def test_show_tells_weights_exactly_and_recommends_more(isolated_cache: IsolatedCache) -> None:
    build.Repo(isolated_cache.hub, "org/model").snapshot(build.sharded_model())
    memory = call("show", "org/model", "--json", env=isolated_cache.env).data["memory"]
    assert memory["weights_bytes"] == 3 * 64 * 16 * 2
    assert memory["kv_bytes_per_token"] == 2 * 2 * 2 * 16 * 2
    whole = memory["weights_bytes"] + 2048 * memory["kv_bytes_per_token"]
    assert memory["recommended_bytes"] == whole + whole // 10 + 128 * 2**20


def test_without_headers_nothing_is_claimed(isolated_cache: IsolatedCache) -> None:
    build.Repo(isolated_cache.hub, "org/model").snapshot(build.gguf_model())
    memory = call("show", "org/model", "--json", env=isolated_cache.env).data["memory"]
    assert memory == {"weights_bytes": None, "kv_bytes_per_token": None, "recommended_bytes": None}
