"""Tables for benchmarks: aligned text, or Markdown with `--markdown` on the command line."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def print_table(title: str, headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print `rows` under `headers`; numbers are aligned to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    if "--markdown" in sys.argv:
        _print_markdown(title, headers, cells)
        return
    widths = [max(len(text) for text in column) for column in zip(headers, *cells)]
    print(f"\n{title}")
    print("  " + "  ".join(text.ljust(width) for text, width in zip(headers, widths)).rstrip())
    print("  " + "  ".join("-" * width for width in widths))
    for row in cells:
        print("  " + "  ".join(_aligned(text, width) for text, width in zip(row, widths)).rstrip())


def _print_markdown(title: str, headers: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    print(f"\n### {title}\n")
    print("| " + " | ".join(headers) + " |")
    print("|" + "|".join("---" for _ in headers) + "|")
    for row in cells:
        print("| " + " | ".join(row) + " |")


def _aligned(text: str, width: int) -> str:
    return text.rjust(width) if text[:1].isdigit() else text.ljust(width)


def verdict(met: bool) -> str:
    """Word for a target."""
    return "met" if met else "missed"
