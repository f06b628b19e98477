"""Load the prepared dataset that training stages read."""

from __future__ import annotations

from pathlib import Path

from spar_core.data.dataset import Dataset
from spar_core.data.loading import DataPlace
from stages.layout import Layout


def place_of(layout: Layout, dataset: str) -> DataPlace:
    """Where the prepared dataset lies."""
    return DataPlace(layout.minari_root, layout.data(dataset), dataset)


def dataset_of(layout: Layout, dataset: str) -> Dataset:
    """The prepared dataset."""
    return place_of(layout, dataset).load()


def dataset_folders(layout: Layout, dataset: str) -> dict[str, Path]:
    """The input of a stage that reads the dataset. Its manifest holds the digest of the episodes."""
    return {"dataset": layout.data(dataset)}
