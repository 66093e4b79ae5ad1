"""The error that compiled validators raise; stands in for the one of the compiler's own runtime."""

from __future__ import annotations

from typing import Any


class JsonSchemaValueException(ValueError):
    """A value breaks the schema: `name` says where, `rule` which keyword, `definition` the schema there."""

    def __init__(self, message: str, value: Any = None, name: str = "", definition: Any = None, rule: str = "") -> None:
        super().__init__(message)
        self.value = value
        self.name = name
        self.definition = definition
        self.rule = rule
