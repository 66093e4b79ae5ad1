"""Which prompts of a batch there are, and which have an answer: kept on disk once there are many."""

from __future__ import annotations

import json
import sqlite3
from types import TracebackType
from typing import Union

_CACHE_KIB = 8192


class Ledger:
    """The ids of a batch. Its memory does not grow with their number; `close` forgets them."""

    def __init__(self) -> None:
        # Without a name: in memory as far as the cache goes, else in a file that is gone when it is closed.
        self._table = sqlite3.connect("", isolation_level=None)
        for statement in (
            f"PRAGMA cache_size = -{_CACHE_KIB}",
            "PRAGMA journal_mode = OFF",
            "PRAGMA synchronous = OFF",
            "CREATE TABLE prompts (id TEXT PRIMARY KEY, line INTEGER, answered INTEGER, content TEXT) WITHOUT ROWID",
            "BEGIN",
        ):
            self._table.execute(statement)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Forget everything."""
        self._table.close()

    def add(self, key: Union[str, int], line: int, content: str = "") -> int | None:
        """Note a prompt, `content` being its fingerprint; return the line of an earlier one with the same id, None where there is none."""
        try:
            self._table.execute("INSERT INTO prompts VALUES (?, ?, 0, ?)", (json.dumps(key), line, content))
        except sqlite3.IntegrityError:
            (found,) = self._table.execute("SELECT line FROM prompts WHERE id = ?", (json.dumps(key),)).fetchone()
            return int(found)
        return None

    def note_answer(self, key: Union[str, int]) -> bool:
        """Note that there is an answer; False for an id that is none of this batch, where nothing happens."""
        return self._table.execute("UPDATE prompts SET answered = 1 WHERE id = ?", (json.dumps(key),)).rowcount > 0

    def is_answered(self, key: Union[str, int]) -> bool:
        """Whether there is an answer."""
        row = self._table.execute("SELECT answered FROM prompts WHERE id = ?", (json.dumps(key),)).fetchone()
        return row is not None and bool(row[0])

    def content(self, key: Union[str, int]) -> str | None:
        """Return the prompt's fingerprint; None where it is none of this batch's."""
        row = self._table.execute("SELECT content FROM prompts WHERE id = ?", (json.dumps(key),)).fetchone()
        return None if row is None else str(row[0])

    def knows(self, key: Union[str, int]) -> bool:
        """Whether it is the id of one of this batch's prompts."""
        return self._table.execute("SELECT 1 FROM prompts WHERE id = ?", (json.dumps(key),)).fetchone() is not None

    def count(self) -> int:
        """How many prompts there are."""
        return int(self._table.execute("SELECT COUNT(*) FROM prompts").fetchone()[0])

    def count_answered(self) -> int:
        """How many of them have an answer."""
        return int(self._table.execute("SELECT COUNT(*) FROM prompts WHERE answered = 1").fetchone()[0])
