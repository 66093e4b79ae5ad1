"""The bytes of tokens that are only a part of a character, which no text shows. Knows no model."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))


def escaped(backend: Tokenizer, token_id: int) -> str | None:
    """Return a token with bytes that are no character as surrogate escapes; None where its bytes are not known."""
    token = backend.id_to_token(token_id)
    kinds = _decoders(backend)
    raw: bytes | None = None
    if token is not None and "ByteFallback" in kinds:
        found = _FALLBACK.fullmatch(token)
        raw = bytes.fromhex(found[1]) if found else None
    if token is not None and "ByteLevel" in kinds and all(char in _alphabet() for char in token):
        raw = bytes(_alphabet()[char] for char in token)
    return None if raw is None else raw.decode("utf-8", "surrogateescape")


def shown(token: str) -> str:
    """Return an escaped token with its bytes that are no character as U+FFFD."""
    return token.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _decoders(backend: Tokenizer) -> frozenset[str]:
    """Return which kinds of decoders a tokenizer has."""
    if backend.decoder is None:
        return frozenset()
    told = json.loads(backend.decoder.__getstate__())
    return frozenset(str(part["type"]) for part in (told, *told.get("decoders", ())))


@cache
def _alphabet() -> dict[str, int]:
    """Return the byte that each character of GPT-2's alphabet stands for: printable ones for themselves."""
    found = {chr(byte): byte for byte in _PRINTABLE}
    others = (byte for byte in range(256) if byte not in _PRINTABLE)
    return found | {chr(256 + number): byte for number, byte in enumerate(others)}
