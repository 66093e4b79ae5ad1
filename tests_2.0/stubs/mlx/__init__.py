"""A stand-in for mlx, for machines where the real package cannot be imported. Computes nothing but what tests need."""
