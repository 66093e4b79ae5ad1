"""Cuts generated text at stop strings, holding back what may be the start of one. Pure: knows no token."""

from __future__ import annotations


class StopCutter:
    """Passes text on until one of `stop` is complete; `stopped` is True from then on and nothing more is passed.

    The stop string that is complete first wins, of two that end together the longer one. How the text is split
    into pieces makes no difference to what is passed in the end.
    """

    def __init__(self, stop: tuple[str, ...] = ()) -> None:
        self._stop = tuple(sorted(set(stop), key=len, reverse=True))
        self._longest = len(self._stop[0]) if self._stop else 0
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """Return what can be shown now that `text` has come."""
        if self.stopped:
            return ""
        if not self._stop:
            return text
        text = self._held + text
        cut = self._first_match(text)
        if cut is not None:
            self.stopped, self._held = True, ""
            return text[:cut]
        keep = self._possible_start(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """Return what was held back, now that no more text will come."""
        held, self._held = self._held, ""
        return held

    def _first_match(self, text: str) -> int | None:
        """Where the match begins whose end comes first."""
        best: tuple[int, int] | None = None
        for stop in self._stop:
            start = text.find(stop)
            if start >= 0 and (best is None or (start + len(stop), start) < best):
                best = (start + len(stop), start)
        return best[1] if best else None

    def _possible_start(self, text: str) -> int:
        """How many characters at the end of `text` could begin a stop string."""
        for size in range(min(len(text), self._longest - 1), 0, -1):
            tail = text[-size:]
            if any(stop.startswith(tail) for stop in self._stop if len(stop) > size):
                return size
        return 0
