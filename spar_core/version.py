"""The version of the package. It stands apart from the package's other code, so that a release reruns no cell."""

__version__ = "0.1.0"
