"""Finds markers in text that comes in pieces, holding back what may be the start of one. Pure: knows no token."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Piece(NamedTuple):
    """A stretch of text; `is_marker` tells whether it is one of the markers, whole."""

    text: str
    is_marker: bool


class MarkerFinder:
    """Cuts a text into markers and what lies between them.

    The marker that is complete first wins, of two that end together the longer one; the search goes on behind it.
    How the text is split when it is fed makes no difference to where it is cut. The time is linear in the text,
    however long the markers are.

    Source: Aho and Corasick, "Efficient string matching: an aid to bibliographic search" (1975).
    """

    def __init__(self, markers: Iterable[str]) -> None:
        # One node for each beginning of a marker: what may follow, its longest proper end that is such a beginning
        # too, its length, and the marker that is complete with it.
        self._next: list[dict[str, int]] = [{}]
        self._shorter = [0]
        self._length = [0]
        self._complete = [""]
        for marker in markers:
            self._add(marker)
        self._link()
        starts = "".join(map(re.escape, self._next[0]))
        self._start = re.compile(f"[{starts}]") if starts else re.compile(r"(?!)")
        self._node = 0
        self._held = ""

    def feed(self, text: str) -> Iterator[Piece]:
        """Yield what is certain now that `text` has come. Must be read to the end before more is fed."""
        begin, at, text = 0, len(self._held), self._held + text
        while True:
            end = self._next_marker_end(text, at)
            if end is None:
                break
            marker = self._complete[self._node]
            if end - len(marker) > begin:
                yield Piece(text[begin : end - len(marker)], is_marker=False)
            yield Piece(marker, is_marker=True)
            self._node, begin, at = 0, end, end
        certain = len(text) - self._length[self._node]
        self._held = text[certain:]
        if certain > begin:
            yield Piece(text[begin:certain], is_marker=False)

    def finish(self) -> str:
        """Return what was held back, now that no more text will come."""
        held, self._held, self._node = self._held, "", 0
        return held

    def _next_marker_end(self, text: str, at: int) -> int | None:
        """Read on from `at`; return where the next marker ends, None if it does not end in `text`."""
        while at < len(text):
            if not self._node:
                start = self._start.search(text, at)
                if start is None:
                    return None
                at = start.start()
            self._node = self._step(self._node, text[at])
            at += 1
            if self._complete[self._node]:
                return at
        return None

    def _step(self, node: int, char: str) -> int:
        while True:
            found = self._next[node].get(char)
            if found is not None:
                return found
            if not node:
                return 0
            node = self._shorter[node]

    def _add(self, marker: str) -> None:
        node = 0
        for char in marker:
            if char not in self._next[node]:
                self._next[node][char] = len(self._next)
                self._next.append({})
                self._shorter.append(0)
                self._length.append(self._length[node] + 1)
                self._complete.append("")
            node = self._next[node][char]
        self._complete[node] = marker

    def _link(self) -> None:
        """Find each node's longest proper end that begins a marker too, the short ones first."""
        waiting = deque(self._next[0].values())
        while waiting:
            node = waiting.popleft()
            for char, child in self._next[node].items():
                shorter = self._step(self._shorter[node], char)
                self._shorter[child] = shorter
                self._complete[child] = self._complete[child] or self._complete[shorter]
                waiting.append(child)
