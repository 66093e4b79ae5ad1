"""A GGUF file becomes a model folder: the plan of all its parts, and the small files beside the weights."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxk2.convert.gguf_config import build_config
from mlxk2.convert.gguf_metadata import Metadata
from mlxk2.convert.gguf_tokenizer import BuiltTokenizer, build_tokenizer
from mlxk2.convert.gguf_weights import Weight, plan_weights, quantization, source_dtype
from mlxk2.convert.model_card import ModelCard
from mlxk2.inspection.gguf import read_gguf


@dataclass(frozen=True)
class GgufPlan:
    """A checked GGUF and everything that its model folder will hold."""

    path: Path
    config: dict[str, Any]
    weights: tuple[Weight, ...]
    tokenizer: BuiltTokenizer
    card: ModelCard
    dtype: str

    @property
    def size_bytes(self) -> int:
        """Bytes of the weights when written."""
        return sum(weight.size_bytes(self.dtype) for weight in self.weights)

    @property
    def quantization(self) -> dict[str, Any] | None:
        described = quantization(self.weights)
        return described and {key: described[key] for key in ("bits", "group_size", "mode")}


def plan_gguf(path: Path, dtype: str | None, quantized_dtype: str, *, dequantize: bool) -> GgufPlan:
    """Check a GGUF and decide what it becomes; `dtype` None keeps what the source has.

    `quantized_dtype` is the type of scales and norms beside quantized weights.
    Raises: InvalidSource, UnsupportedFormat.
    """
    gguf = read_gguf(path)
    config = build_config(gguf)
    weights = plan_weights(gguf, config, dequantize=dequantize)
    meta = Metadata(gguf)
    tokenizer = build_tokenizer(meta, config["vocab_size"])
    stays_quantized = any(weight.bits for weight in weights)
    chosen = dtype or (quantized_dtype if stays_quantized else source_dtype(weights))
    _complete(config, tokenizer, weights, chosen)
    return GgufPlan(path, config, weights, tokenizer, _card(meta), chosen)


def write_texts(plan: GgufPlan, folder: Path) -> None:
    """Write config, tokenizer, chat template, generation config and README."""
    _write_json(folder / "config.json", plan.config)
    (folder / "tokenizer.json").write_text(plan.tokenizer.tokenizer.to_str(pretty=True), encoding="utf-8")
    _write_json(folder / "tokenizer_config.json", plan.tokenizer.config)
    _write_json(folder / "generation_config.json", _ids(plan.tokenizer))
    if plan.tokenizer.chat_template is not None:
        (folder / "chat_template.jinja").write_text(plan.tokenizer.chat_template, encoding="utf-8")
    (folder / "README.md").write_text(plan.card.text(), encoding="utf-8")


def _complete(config: dict[str, Any], tokenizer: BuiltTokenizer, weights: tuple[Weight, ...], dtype: str) -> None:
    config["torch_dtype"] = dtype
    config.update(_ids(tokenizer))
    described = quantization(weights)
    if described is not None:
        # mlx-lm reads the first, other tools the second.
        config["quantization"] = config["quantization_config"] = described


def _ids(tokenizer: BuiltTokenizer) -> dict[str, Any]:
    vocabulary = tokenizer.vocabulary
    ends = vocabulary.ends
    ids = {
        "bos_token_id": vocabulary.bos,
        "eos_token_id": (list(ends) if len(ends) > 1 else ends[0]) if ends else None,
        "pad_token_id": vocabulary.pad,
    }
    return {name: value for name, value in ids.items() if value is not None}


def _card(meta: Metadata) -> ModelCard:
    url = meta.text("general.base_model.0.repo_url", "") or meta.text("general.source.huggingface.repository", "")
    return ModelCard(
        title=meta.text("general.name", Path(meta.file_name).stem),
        source=meta.file_name,
        base_model=re.sub(r"^https?://[^/]*/", "", url).strip("/") or None,
        license=meta.text("general.license", "").lower(),
        languages=tuple(meta.items("general.languages", (str,), [])),
        tags=tuple(meta.items("general.tags", (str,), [])),
    )


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
