"""Measurements inside a trained cell: the geometry of its residuals, and what its rule does with them."""
