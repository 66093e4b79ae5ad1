"""What answers are called, and what made them."""

from __future__ import annotations

import uuid

from mlxk2 import __version__

FINGERPRINT = f"mlxk2_{__version__}"


def new_id(prefix: str) -> str:
    """Return an id that nobody else has."""
    return f"{prefix}{uuid.uuid4().hex}"
