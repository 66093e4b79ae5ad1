"""What was typed in earlier chats: a file of the user's own, one JSON string a line."""

from __future__ import annotations

import errno
import json
import os
import stat
from contextlib import suppress
from pathlib import Path

from mlxk2.aside import written_aside

_MOST_ENTRIES = 1000
# Beyond this the file is cut back to its latest entries.
_LARGEST_BYTES = 2**20
_LONGEST_ENTRY = 2**16


class HistoryFile:
    """Keeps entries in a file that nobody else may read; several chats may add to it at a time.

    Raises: OSError where the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.entries = self._read()

    def add(self, text: str) -> None:
        """Keep an entry; where that is not possible any more, do without."""
        line = json.dumps(text) + "\n"
        if text.strip() and len(line) <= _LONGEST_ENTRY:
            with suppress(OSError):
                descriptor = self._opened()
                try:
                    os.write(descriptor, line.encode("ascii"))
                finally:
                    os.close(descriptor)

    def _read(self) -> tuple[str, ...]:
        with open(self._opened(), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - _LARGEST_BYTES))
            lines = file.read(_LARGEST_BYTES).splitlines()
        entries = tuple(entry for entry in map(_entry, lines) if entry is not None)[-_MOST_ENTRIES:]
        if size > _LARGEST_BYTES:
            self._write_again(entries)
        return entries

    def _write_again(self, entries: tuple[str, ...]) -> None:
        """Let the file hold these entries only, or leave it as it is."""
        half = entries[-_MOST_ENTRIES // 2 :]
        with suppress(OSError), written_aside(self._path, 0o600) as fresh:
            fresh.write_text("".join(json.dumps(entry) + "\n" for entry in half), encoding="ascii")

    def _opened(self) -> int:
        """Open the file, which is made where there is none. Raises: OSError."""
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o600)
        try:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise OSError(errno.EINVAL, "it is no file")
            if mode & 0o077:
                os.fchmod(descriptor, 0o600)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor


def _entry(line: bytes) -> str | None:
    """What a line holds; None where it is damaged, as the first one is when it was cut."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, str) else None
