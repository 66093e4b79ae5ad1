"""The architecture llama."""

from .head_only import HeadOnly, ModelArgs

__all__ = ["Model", "ModelArgs"]


class Model(HeadOnly):
    """A llama model."""
