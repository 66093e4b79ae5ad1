"""Loading, with the names and the errors of the real module."""

from __future__ import annotations

import importlib
import json
import struct
from array import array
from pathlib import Path
from typing import Any

MODEL_REMAPPING = {"mistral": "llama"}


def load_model(
    model_path: Path, lazy: bool = False, strict: bool = True, trust_remote_code: bool = False
) -> tuple[Any, Any]:
    config = json.loads((model_path / "config.json").read_text())
    files = sorted(model_path.glob("model*.safetensors"))
    if not files and strict:
        raise FileNotFoundError(f"No safetensors found in {model_path}")
    tensors: dict[str, array[float]] = {}
    for file in files:
        tensors.update(_read(file))
    module = _architecture(config["model_type"])
    model = module.Model(module.ModelArgs.from_dict(config))
    model.load_weights(tensors)
    return model, config


def load_tokenizer(model_path: Path, tokenizer_config_extra: Any = None, eos_token_ids: Any = None) -> Any:
    return TokenizerWrapper(model_path)


class TokenizerWrapper:
    """What MLX Knife uses of the real wrapper, straight on the tokenizers library."""

    has_chat_template = False

    def __init__(self, model_path: Path) -> None:
        from tokenizers import Tokenizer

        self.backend_tokenizer = Tokenizer.from_file(str(model_path / "tokenizer.json"))

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return list(self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)


def _architecture(model_type: str) -> Any:
    name = MODEL_REMAPPING.get(model_type, model_type)
    try:
        return importlib.import_module(f"mlx_lm.models.{name}")
    except ImportError as error:
        raise ValueError(f"Model type {name} not supported.") from error


def _read(path: Path) -> dict[str, array[float]]:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    tensors = {}
    for name, entry in json.loads(data[8 : 8 + length]).items():
        if name == "__metadata__":
            continue
        start, end = entry["data_offsets"]
        values = array("f")
        values.frombytes(data[8 + length + start : 8 + length + end])
        tensors[name] = values
    return tensors
