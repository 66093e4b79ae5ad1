"""Sizes and ages as people read them. Pure functions of numbers."""

from __future__ import annotations

_UNITS = ("B", "KB", "MB", "GB", "TB", "PB")
_AGES = ((60, "minute"), (60, "hour"), (24, "day"), (30, "month"), (12, "year"))


def format_size(size_bytes: int, separator: str = "") -> str:
    """Write a size in decimal units with one digit, e.g. "2.3GB"; plain bytes have no fraction."""
    value = float(size_bytes)
    for unit in _UNITS:
        if round(value, 1) < 1000 or unit == _UNITS[-1]:
            break
        value /= 1000
    return f"{size_bytes}{separator}B" if unit == "B" else f"{value:.1f}{separator}{unit}"


def format_age(age_s: float) -> str:
    """Write how long ago something was, e.g. "3 days ago"."""
    count, name = max(age_s, 0.0), "second"
    for size, next_name in _AGES:
        if count < size:
            break
        count, name = count / size, next_name
    if name == "second":
        return "just now"
    whole = int(count)
    return f"{whole} {name}{'' if whole == 1 else 's'} ago"


def format_count(count: int) -> str:
    """Write a large number briefly, e.g. "134.5M"."""
    for size, letter in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= size:
            return f"{count / size:.1f}{letter}"
    return str(count)
