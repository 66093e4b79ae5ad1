"""What a model is for: chat, embedding or base. Ordered rules on its card, its config, its template and its name."""

from __future__ import annotations

import re

from mlxk2.inspection.files import ModelFiles, read_small

CHAT = "chat"
EMBEDDING = "embedding"
BASE = "base"
UNKNOWN = "unknown"

CAPABILITIES = {
    CHAT: ("text-generation", "chat"),
    EMBEDDING: ("embeddings",),
    BASE: ("text-generation", "completion"),
    UNKNOWN: (),
}

_EMBEDDING_TASKS = frozenset({"feature-extraction", "sentence-similarity"})
_CHAT_WORDS = frozenset({"instruct", "chat"})
_ENCODER_FAMILIES = (
    "Albert", "Bert", "CamembertModel", "CLIPText", "Deberta", "DistilBert", "Electra", "Ernie", "GTE", "JinaBert", "MPNet",
    "ModernBert", "NewModel", "NomicBert", "Roberta", "T5Encoder", "XLMRoberta", "XLMRobertaXL",
)  # fmt: skip
_GENERATIVE_ENDINGS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "ForImageTextToText")

_WORDS = re.compile(r"[a-z0-9]+")
_TEMPLATE = re.compile(rb'"chat_template"\s*:\s*(?:"[^"]|\[\s*\{)')
_MAX_TOKENIZER_CONFIG = 32 * 2**20


def detect_type(files: ModelFiles) -> str:
    """Name what the model is for: embedding, chat, base, or unknown where there are no files to tell by."""
    if not files.entries:
        return UNKNOWN
    if _is_embedding(files):
        return EMBEDDING
    return CHAT if _is_chat(files) else BASE


def is_generative(files: ModelFiles) -> bool:
    """Tell whether the config is of a model that writes text, which needs a tokenizer."""
    config = files.config
    if config is None or _is_embedding(files):
        return False
    names = _architectures(files)
    if names:
        return any(name.endswith(_GENERATIVE_ENDINGS) for name in names)
    return isinstance(config.get("model_type"), str)


def _is_embedding(files: ModelFiles) -> bool:
    card = files.front_matter
    if card.pipeline_tag in _EMBEDDING_TASKS:
        return True
    names = _architectures(files)
    if any(name.startswith(_ENCODER_FAMILIES) for name in names) and not _generates(names):
        return True
    return "embed" in files.ref.own_name.lower()


def _generates(names: list[str]) -> bool:
    return any(name.endswith(_GENERATIVE_ENDINGS) for name in names)


def _is_chat(files: ModelFiles) -> bool:
    if files.has("chat_template.jinja") or files.has("chat_template.json") or _config_has_template(files):
        return True
    if not _CHAT_WORDS.isdisjoint(_WORDS.findall(files.ref.own_name.lower())):
        return True
    tags = files.front_matter.tags
    return "conversational" in tags or any(not _CHAT_WORDS.isdisjoint(_WORDS.findall(tag)) for tag in tags)


def _config_has_template(files: ModelFiles) -> bool:
    """Look for a template, text or list, without parsing the thousands of added tokens around it."""
    entry = files.by_name.get("tokenizer_config.json")
    raw = None if entry is None else read_small(entry, _MAX_TOKENIZER_CONFIG)
    return raw is not None and _TEMPLATE.search(raw) is not None


def _architectures(files: ModelFiles) -> list[str]:
    names = (files.config or {}).get("architectures")
    if isinstance(names, str):
        names = [names]
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
