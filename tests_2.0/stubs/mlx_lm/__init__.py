"""A stand-in for mlx-lm: reads the float32 models that the test kit writes and runs their embedding and head only."""

__version__ = "0.0.0"
