"""MLX Knife: the package version, and nothing else."""

__version__ = "2.0.0b1"
