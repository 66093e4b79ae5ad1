"""Which token ids end a turn. Knows the model's files and its vocabulary, no engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .model_text import ModelText
from .tokenizer import TextTokenizer

# What templates put behind a turn; each counts only where it is one special token and the template uses it.
TURN_ENDERS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<end_of_turn>",
    "<turn|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
)

# Ends a text in every vocabulary that has it, whether the template mentions it or not.
_END_OF_TEXT = "<|endoftext|>"

# Templates with channels write it between an answer's parts, not behind it.
_PART_ENDER, _ANSWER_ENDER = "<|end|>", "<|return|>"


def stop_token_ids(
    text: ModelText, config: Mapping[str, Any], tokenizer: TextTokenizer, vocab_size: int, *, chat: bool
) -> frozenset[int]:
    """Return every id that ends the text: of the tokenizer, config.json and generation_config.json, all together.

    In a chat (`chat`) also the turn markers of the template. Ids that the model cannot produce are left out.
    """
    ids = set(_configured(config)) | set(_configured(text.generation_config))
    eos_token = text.special_tokens.get("eos_token")
    names = [eos_token] if eos_token else []
    if chat:
        enders = (*turn_enders(text.chat_template or ""), _END_OF_TEXT)
        names += [name for name in enders if tokenizer.is_special(name)]
    ids |= {found for found in map(tokenizer.id_of, names) if found is not None}
    return frozenset(number for number in ids if 0 <= number < vocab_size)


def turn_enders(template: str) -> tuple[str, ...]:
    """Return the known turn markers that `template` uses."""
    found = tuple(name for name in TURN_ENDERS if name in template)
    return tuple(name for name in found if name != _PART_ENDER) if _ANSWER_ENDER in found else found


def _configured(config: Mapping[str, Any]) -> Iterator[int]:
    """The ids under `eos_token_id`: a number or a list, also below `text_config`."""
    nested = config.get("text_config")
    for part in (config, nested):
        value = part.get("eos_token_id") if isinstance(part, Mapping) else None
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and not isinstance(number, bool):
                yield number
