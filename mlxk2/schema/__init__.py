"""The JSON Schema of every answer, and its validators, compiled ahead of time by scripts/compile_schema.py."""
