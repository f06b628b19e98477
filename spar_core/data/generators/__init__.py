"""Datasets that are generated here, so that nothing needs a network."""
