"""The small text files of a model folder that say how to talk to it. Knows no tokenizer and no engine."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# tokenizer_config.json of models with thousands of added tokens stays well below this.
_MAX_JSON_BYTES = 32 * 2**20

# Names of special tokens that chat templates may use.
_TEMPLATE_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class ModelText:
    """What a model folder says about its tokenizer, its chat template and its end of text."""

    folder: Path
    tokenizer_config: dict[str, Any]
    generation_config: dict[str, Any]
    special_tokens: dict[str, str]
    chat_template: str | None

    @classmethod
    def read(cls, folder: Path) -> ModelText:
        """Read the files of `folder`; a missing or broken one counts as empty."""
        config = read_json(folder / "tokenizer_config.json")
        extra = read_json(folder / "special_tokens_map.json")
        tokens = {name: _token_text(config.get(name) or extra.get(name)) for name in _TEMPLATE_TOKENS}
        return cls(
            folder=folder,
            tokenizer_config=config,
            generation_config=read_json(folder / "generation_config.json"),
            special_tokens={name: text for name, text in tokens.items() if text},
            chat_template=_find_template(folder, config),
        )

    @property
    def has_plain_tokenizer(self) -> bool:
        """Whether `tokenizer.json` alone says how text becomes token ids.

        False as well where mlx-lm has its own code for the template (`chat_template_type`).
        """
        return (self.folder / "tokenizer.json").is_file() and "chat_template_type" not in self.tokenizer_config


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in `path`, or an empty one where there is none that can be read."""
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            return {}
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _find_template(folder: Path, tokenizer_config: dict[str, Any]) -> str | None:
    """The chat template; a file of its own goes before an entry in tokenizer_config.json."""
    try:
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    except (OSError, ValueError):
        pass
    value = tokenizer_config.get("chat_template") or read_json(folder / "chat_template.json").get("chat_template")
    if isinstance(value, list):
        return _default_template(value, tokenizer_config)
    return value if isinstance(value, str) and value else None


def _default_template(entries: list[Any], tokenizer_config: dict[str, Any]) -> str | None:
    named = {entry.get("name"): entry.get("template") for entry in entries if isinstance(entry, dict)}
    if not named:
        return None
    template = named.get("default")
    if isinstance(template, str):
        return template
    # Raw prompts need none, so the model is refused only when the template is used.
    names = ", ".join(sorted(str(name) for name in named))
    return "{{ raise_exception(" + json.dumps(f"there are several ({names}), none of them the default") + ") }}"


def _token_text(value: object) -> str:
    """The text of a special token, which is a string or an object with `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""
