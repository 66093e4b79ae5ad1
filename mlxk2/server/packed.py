"""Thoughts as one word that means something to this server alone: clients keep it, and bring it back with the next request."""

from __future__ import annotations

import base64

# OpenAI's API calls such a word encrypted. It hides nothing here: whoever gets it has the thoughts in clear as well.
_MARK = "mlxk2."


def packed(thoughts: str) -> str:
    """Return the word."""
    return _MARK + base64.b64encode(thoughts.encode("utf-8", "replace")).decode("ascii")


def unpacked(word: str) -> str:
    """Return the thoughts. Raises: ValueError where the word is another server's."""
    if not word.startswith(_MARK):
        raise ValueError("the word is another server's")
    return base64.b64decode(word[len(_MARK) :], validate=True).decode("utf-8")
