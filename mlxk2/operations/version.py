"""Say what is installed, without importing it."""

from __future__ import annotations

import sys
from typing import NamedTuple

from mlxk2 import __version__
from mlxk2.inspection.versions import installed_version
from mlxk2.spec import JSON_API_SPEC_VERSION


class VersionResult(NamedTuple):
    """What `version` tells; not a dataclass because that import alone would cost a fifth of this command."""

    cli_version: str
    json_api_spec_version: str
    python: str
    mlx: str | None
    mlx_lm: str | None
    huggingface_hub: str | None


def version() -> VersionResult:
    """Gather the versions; a package that is not installed is None."""
    return VersionResult(
        cli_version=__version__,
        json_api_spec_version=JSON_API_SPEC_VERSION,
        python=".".join(str(part) for part in sys.version_info[:3]),
        mlx=installed_version("mlx"),
        mlx_lm=installed_version("mlx-lm"),
        huggingface_hub=installed_version("huggingface-hub"),
    )
