"""The version of the JSON API, and where its schema lies."""

from __future__ import annotations

from pathlib import Path

JSON_API_SPEC_VERSION = "1.0.0"

SCHEMA_PATH = Path(__file__).parent / "schema" / "json-api-schema.json"
