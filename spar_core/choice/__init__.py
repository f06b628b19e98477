"""Which improvement to deploy, and whether any: decided from logged data alone."""
