"""Which version of a package is installed, read off the names of folders: nothing is imported."""

from __future__ import annotations

import os
import sys

_ENDINGS = (".dist-info", ".egg-info")


def installed_version(distribution: str) -> str | None:
    """Find the version of `distribution` on sys.path, as import would find it; None where it is not installed."""
    wanted = _spelled(distribution)
    for folder in sys.path:
        try:
            names = os.listdir(folder or ".")
        except OSError:
            continue
        for name in names:
            if name.endswith(_ENDINGS):
                own, _, version = name.rsplit(".", 1)[0].partition("-")
                if version and _spelled(own) == wanted:
                    return version.split("-py", 1)[0]
    return None


def _spelled(name: str) -> str:
    return name.lower().replace("-", "_").replace(".", "_")
