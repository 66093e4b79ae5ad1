"""What a config says about packed weights. Knows no file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from mlxk2.text import one_line

_LARGEST_SETTING = 2**16
_MOST_CHARACTERS = 40

# MLX's own section goes before that of other frameworks; the mode is what a section without one means.
_SECTIONS = (("quantization", "affine"), ("quantization_config", None))


class Quantization(NamedTuple):
    """How the weights are packed; `mode` is mlx's name for the format, or the method of another framework."""

    bits: int
    group_size: int | None
    mode: str | None


def quantization(config: Mapping[str, Any] | None) -> Quantization | None:
    """Read the first section that states its bits; None where the weights are not packed."""
    for section, default_mode in _sections(config or {}):
        bits = _setting(section, "bits")
        if bits is not None:
            mode = section.get("mode") or section.get("quant_method") or default_mode
            shown = one_line(mode[:_MOST_CHARACTERS]) if isinstance(mode, str) else None
            return Quantization(bits, _setting(section, "group_size"), shown)
    return None


def layer_setting(config: Mapping[str, Any], layer: str, key: str) -> int | None:
    """Find a number for one layer, whose own settings go before the model's."""
    for section, _ in _sections(config):
        for part in (section.get(layer), section):
            value = _setting(part, key) if isinstance(part, dict) else None
            if value is not None:
                return value
    return None


def _sections(config: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], str | None]]:
    nested = config.get("text_config")
    parts = (config, nested) if isinstance(nested, dict) else (config,)
    for key, default_mode in _SECTIONS:
        for part in parts:
            section = part.get(key)
            if isinstance(section, dict):
                yield section, default_mode


def _setting(section: Mapping[str, Any], key: str) -> int | None:
    value = section.get(key)
    return value if type(value) is int and 0 < value <= _LARGEST_SETTING else None
