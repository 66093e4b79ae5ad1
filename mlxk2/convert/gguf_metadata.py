"""Typed access to GGUF metadata: a value of the wrong kind is an InvalidSource that names its key."""

from __future__ import annotations

import math
from typing import Any

from mlxk2.errors import InvalidSource
from mlxk2.inspection.gguf import GgufFile

_REQUIRED = object()


class Metadata:
    """The metadata of one file; keys written ".x" belong to its architecture, e.g. "llama.x"."""

    def __init__(self, gguf: GgufFile) -> None:
        self._values = gguf.metadata
        self.file_name = gguf.path.name
        self.architecture = self.text("general.architecture")

    def _key(self, key: str) -> str:
        return self.architecture + key if key.startswith(".") else key

    def wrong(self, key: str, what: str) -> InvalidSource:
        return InvalidSource(f"{self.file_name}: metadata '{self._key(key)}' {what}")

    def has(self, key: str) -> bool:
        return self._key(key) in self._values

    def _get(self, key: str, default: Any) -> Any:
        value = self._values.get(self._key(key), default)
        if value is _REQUIRED:
            raise self.wrong(key, "is missing")
        return value

    def integer(self, key: str, default: Any = _REQUIRED, *, least: int = 1, most: int = 2**31 - 1) -> Any:
        """Read a whole number within bounds, or `default` where the key is missing."""
        value = self._get(key, default)
        if value is default:
            return value
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.wrong(key, f"should be a number from {least} to {most}, not {str(value)[:40]}")
        return value

    def number(self, key: str, default: Any = _REQUIRED) -> Any:
        """Read a finite, positive number; a 32-bit value comes back as the decimal that people wrote."""
        value = self._get(key, default)
        if value is default:
            return value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
            raise self.wrong(key, f"should be a positive number, not {str(value)[:40]}")
        return float(f"{value:.7g}")

    def text(self, key: str, default: Any = _REQUIRED) -> Any:
        value = self._get(key, default)
        if value is not default and not isinstance(value, str):
            raise self.wrong(key, "should be text")
        return value

    def flag(self, key: str, default: Any = _REQUIRED) -> Any:
        value = self._get(key, default)
        if value is not default and not isinstance(value, bool):
            raise self.wrong(key, "should be true or false")
        return value

    def items(self, key: str, kinds: tuple[type, ...], default: Any = _REQUIRED) -> Any:
        """Read a list whose items all have one of `kinds`."""
        value = self._get(key, default)
        if value is not default and not (isinstance(value, list) and all(type(item) in kinds for item in value)):
            raise self.wrong(key, f"should be a list of {kinds[0].__name__} values")
        return value
