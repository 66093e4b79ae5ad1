"""The architecture gemma."""

from .head_only import HeadOnly, ModelArgs

__all__ = ["Model", "ModelArgs"]


class Model(HeadOnly):
    """A gemma model."""
