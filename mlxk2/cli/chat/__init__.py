"""SPEAKS with a person at a terminal: `run MODEL` without a prompt. The only package that imports prompt_toolkit."""
