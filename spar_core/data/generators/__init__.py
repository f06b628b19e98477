"""Generators of data: policies and planners that are rolled out, so that nothing is downloaded."""
