"""UNDERSTANDS one model directory: what it is, whether it is sound, whether it will run. No mlx, no network."""
