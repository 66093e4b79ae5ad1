"""The architecture qwen3."""

from .head_only import HeadOnly, ModelArgs

__all__ = ["Model", "ModelArgs"]


class Model(HeadOnly):
    """A qwen3 model."""
