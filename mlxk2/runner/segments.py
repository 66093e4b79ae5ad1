"""Cuts generated text at stop strings, holding back what may be the start of one. Pure: knows no token."""

from __future__ import annotations

from .markers import MarkerFinder


class StopCutter:
    """Passes text on until one of `stop` is complete; `stopped` is True from then on and nothing more is passed.

    The stop string that is complete first wins, of two that end together the longer one. How the text is split
    into pieces makes no difference to what is passed in the end. `found` is the one that stopped it.
    """

    def __init__(self, stop: tuple[str, ...] = ()) -> None:
        self._has_markers = bool(stop)
        self._finder = MarkerFinder(stop)
        self.stopped = False
        self.found: str | None = None

    def feed(self, text: str) -> str:
        """Return what can be shown now that `text` has come."""
        if not self._has_markers:
            return text
        shown = ""
        if not self.stopped:
            for piece in self._finder.feed(text):
                if piece.is_marker:
                    self.stopped, self.found = True, piece.text
                    break
                shown = piece.text
        return shown

    def finish(self) -> str:
        """Return what was held back, now that no more text will come."""
        return "" if self.stopped else self._finder.finish()
