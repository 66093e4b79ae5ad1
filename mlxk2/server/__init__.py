"""SPEAKS HTTP: an OpenAI-compatible server in front of an engine process."""
