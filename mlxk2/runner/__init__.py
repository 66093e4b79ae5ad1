"""RUNS models: messages in, events out."""
