"""TURNS other formats into MLX model folders."""
