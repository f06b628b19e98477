"""What a trained cell looks like from inside: the geometry of its residuals, and what its rule does with them."""
