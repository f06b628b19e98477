"""Datasets from files, folders, Minari and the network, as episodes."""
