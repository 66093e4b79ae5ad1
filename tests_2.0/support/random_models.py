"""Random models of many architectures, made by mlx-lm's own classes: what they say means nothing, how they remember differs.

Needs the real mlx-lm. `CONFIGS` has one entry a kind of memory: full attention, sliding windows, latent attention,
convolutions, state spaces, linear attention.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from support.tiny_model import TinyOptions, tiny_model

_COMMON = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}

_WINDOW = 24

_YARN = {
    "rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096, "beta_fast": 32.0, "beta_slow": 1.0,
    "mscale": 1.0, "mscale_all_dim": 1.0,
}  # fmt: skip

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "llama4": {
        "text_config": {
            "attention_bias": False, "attention_chunk_size": _WINDOW, "head_dim": 8, "hidden_act": "silu", "hidden_size": 32,
            "interleave_moe_layer_step": 5, "intermediate_size": 64, "intermediate_size_mlp": 64, "max_position_embeddings": 4096,
            "model_type": "llama4_text", "num_attention_heads": 4, "num_experts_per_tok": 1, "num_hidden_layers": 4,
            "num_key_value_heads": 2, "num_local_experts": 1, "rms_norm_eps": 1e-5, "rope_scaling": None, "rope_theta": 10000.0,
            "use_qk_norm": False,
        },
    },
    "gemma2": {"query_pre_attn_scalar": 8, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    "gemma3_text": {"sliding_window": _WINDOW, "sliding_window_pattern": 2, "query_pre_attn_scalar": 8},
    "cohere2": {
        "sliding_window": _WINDOW, "sliding_window_pattern": 2, "layer_norm_eps": 1e-5, "logit_scale": 1.0,
        "attention_bias": False, "layer_norm_bias": False,
    },
    "gpt_oss": {
        "sliding_window": _WINDOW, "num_local_experts": 2, "num_experts_per_tok": 1,
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_scaling": _YARN,
    },
    "deepseek_v2": {
        "moe_intermediate_size": 32, "n_shared_experts": None, "n_routed_experts": None, "kv_lora_rank": 16, "q_lora_rank": None,
        "qk_rope_head_dim": 8, "v_head_dim": 8, "qk_nope_head_dim": 8, "first_k_dense_replace": 2, "rope_scaling": _YARN,
        "num_key_value_heads": 4,
    },
    "mamba": {
        "intermediate_size": 64, "state_size": 8, "conv_kernel": 4, "use_bias": False, "use_conv_bias": True,
        "time_step_rank": 4,
    },
    "falcon_h1": {
        "mamba_chunk_size": 16, "mamba_d_head": 8, "mamba_d_ssm": 32, "mamba_d_state": 8, "mamba_n_heads": 4,
        "mamba_n_groups": 1,
    },
    "lfm2": {
        "norm_eps": 1e-5, "conv_bias": False, "conv_L_cache": 3, "block_dim": 32, "block_multiple_of": 8,
        "block_ffn_dim_multiplier": 1.0, "block_auto_adjust_ff_dim": False, "block_ff_dim": 64,
        "layer_types": ["conv", "full_attention"],
    },
    "qwen3_next": {
        "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
        "linear_conv_kernel_dim": 4, "num_experts": 0, "num_experts_per_tok": 1, "decoder_sparse_step": 1,
        "shared_expert_intermediate_size": 32, "mlp_only_layers": [0, 1], "moe_intermediate_size": 32,
        "partial_rotary_factor": 1.0, "full_attention_interval": 2,
    },
}  # fmt: skip

# Those whose memory can always be cut back.
APPENDING = ("llama", "qwen2", "qwen3")


def random_model(path: Path, model_type: str, *, seed: int = 0, config: dict[str, Any] | None = None) -> Path:
    """Write a random model of an architecture, with the tokenizer of `tiny_model`, into `path` and return it."""
    import mlx.core as mx
    from mlx.utils import tree_flatten, tree_map

    tiny_model(path, TinyOptions(eos_in_tokenizer=None))
    vocab_size = json.loads((path / "config.json").read_text())["vocab_size"]
    nested = CONFIGS[model_type].get("text_config")
    if nested is not None:
        config = {**(config or {}), "text_config": {**nested, "vocab_size": vocab_size}}
    full = {**_COMMON, "vocab_size": vocab_size, **CONFIGS[model_type], **(config or {}), "model_type": model_type}
    (path / "config.json").write_text(json.dumps(full))
    classes = importlib.import_module(f"mlx_lm.models.{model_type}")
    # Keys of its own, so that no other test's draws matter.
    mx.random.seed(seed)
    model = classes.Model(classes.ModelArgs.from_dict(full))
    parameters = tree_map(lambda value: _lively(mx, value), model.parameters())
    mx.save_safetensors(str(path / "model.safetensors"), dict(tree_flatten(parameters)), metadata={"format": "mlx"})
    return path


def _lively(mx: Any, value: Any) -> Any:
    """Matrices larger than a fresh model's: its answers would hardly depend on what it read."""
    if value.ndim < 2 or not mx.issubdtype(value.dtype, mx.floating):
        return value
    return mx.random.normal(value.shape) * 0.3
