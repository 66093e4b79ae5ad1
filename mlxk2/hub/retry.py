"""When to try again, and how long to wait before: back-off with jitter, and what the server asks for."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
# So many failures in a row, without a byte between them, are the end.
MOST_FAILURES = 6
LONGEST_WISH_S = 120.0
_FIRST_WAIT_S = 0.25
_LONGEST_WAIT_S = 8.0
_RATE_LIMIT = re.compile(r"\bt=(\d{1,6})\b")


def wait_s(failures: int) -> float:
    """Return how long to wait after so many failures in a row: doubling, with jitter. Units: seconds."""
    longest: float = min(_FIRST_WAIT_S * 2 ** max(failures - 1, 0), _LONGEST_WAIT_S)
    return longest * random.uniform(0.5, 1.0)


def wish_s(headers: Mapping[str, str]) -> float | None:
    """Return how long the server asks to wait, by `RateLimit` or `Retry-After`; None where it does not say.

    Source: RFC 9110 section 10.2.3 (seconds or a date); the Hub's own `RateLimit: "api";r=0;t=55`.
    """
    limit = _RATE_LIMIT.search(headers.get("RateLimit") or "")
    if limit is not None:
        return float(limit[1])
    text = (headers.get("Retry-After") or "").strip()
    if text.isdecimal() and len(text) < 7:
        return float(text)
    try:
        return max(parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
