"""The architecture qwen2."""

from .head_only import HeadOnly, ModelArgs

__all__ = ["Model", "ModelArgs"]


class Model(HeadOnly):
    """A qwen2 model."""
