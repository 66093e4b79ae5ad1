"""What the small text files of a model folder say about how to talk to it. Knows no tokenizer and no engine."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from mlxk2.inspection.files import ModelFiles, read_small

# The longest templates that models come with have some fifty thousand characters.
_MAX_TEMPLATE_BYTES = 2**20

_TEMPLATE_FILE = "chat_template.jinja"

# Names of special tokens that chat templates may use.
_TEMPLATE_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class ModelText:
    """What a model folder says about its tokenizer, its chat template and its end of text.

    `has_plain_tokenizer`: whether `tokenizer.json` alone says how text becomes token ids; False as well where mlx-lm
    has its own code for the template (`chat_template_type`).
    """

    tokenizer_config: dict[str, Any]
    generation_config: dict[str, Any]
    special_tokens: dict[str, str]
    chat_template: str | None
    has_plain_tokenizer: bool

    @classmethod
    def of(cls, files: ModelFiles) -> ModelText:
        """Gather it from the files of a folder; a missing or broken one counts as empty."""
        config, extra = files.tokenizer_config, _object(files.json("special_tokens_map.json"))
        tokens = {name: _token_text(config.get(name) or extra.get(name)) for name in _TEMPLATE_TOKENS}
        return cls(
            tokenizer_config=config,
            generation_config=files.generation_config,
            special_tokens={name: text for name, text in tokens.items() if text},
            chat_template=_find_template(files),
            has_plain_tokenizer=files.has("tokenizer.json") and "chat_template_type" not in config,
        )


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _find_template(files: ModelFiles) -> str | None:
    """The chat template; a file of its own goes before an entry in tokenizer_config.json."""
    if files.has(_TEMPLATE_FILE):
        return _template_file(files)
    config = files.tokenizer_config
    value = config.get("chat_template") or _object(files.json("chat_template.json")).get("chat_template")
    if isinstance(value, list):
        value = _default_template(value)
    if not isinstance(value, str) or not value:
        return None
    return value if len(value) <= _MAX_TEMPLATE_BYTES else _failing("it is larger than 1 MiB")


def _template_file(files: ModelFiles) -> str:
    entry = files.by_name[_TEMPLATE_FILE]
    if (entry.size_bytes or 0) > _MAX_TEMPLATE_BYTES:
        return _failing(f"{_TEMPLATE_FILE} is larger than 1 MiB")
    raw = read_small(entry, _MAX_TEMPLATE_BYTES)
    if raw is None:
        return _failing(f"{_TEMPLATE_FILE} cannot be read")
    try:
        # Universal line ends, as a file that is opened as text has them.
        return raw.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError:
        return _failing(f"{_TEMPLATE_FILE} is not UTF-8 text")


def _default_template(entries: list[Any]) -> str | None:
    named = {entry.get("name"): entry.get("template") for entry in entries if isinstance(entry, dict)}
    if not named:
        return None
    template = named.get("default")
    if isinstance(template, str):
        return template
    names = ", ".join(sorted(str(name) for name in named))
    return _failing(f"there are several ({names}), none of them the default")


def _failing(reason: str) -> str:
    """A template that fails with `reason`: raw prompts need none, so the model is refused only where it is used."""
    return "{{ raise_exception(" + json.dumps(reason) + ") }}"


def _token_text(value: object) -> str:
    """The text of a special token, which is a string or an object with `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""
