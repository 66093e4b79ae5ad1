"""USES the layers below, one module per command, and returns a typed value. Never prints, prompts or exits."""
