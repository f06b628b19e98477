"""Choose and spoil the data that an anchor is cloned from, to get anchors of chosen quality.

The draws depend on the dataset alone. So every seed of an anchor sees the same data, and a smaller share is a part of a
larger one.

Source: the top share of episodes by return is the "10% BC" of Chen et al. 2021 (Decision Transformer, section 5).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np
import torch

from spar_core.data.dataset import Dataset
from spar_core.training.randomness import stream


class Knobs(Protocol):
    """The three settings that are read here; see ``spar_core.anchors.base.ClonedSettings``."""

    @property
    def data_share(self) -> float: ...
    @property
    def top_share(self) -> float: ...
    @property
    def label_noise(self) -> float: ...


def training_data(dataset: Dataset, knobs: Knobs) -> Dataset:
    """The dataset that an anchor is cloned from. Held-out episodes stay as they are.

    ``data_share`` draws a share of the training episodes. Of those, ``top_share`` keeps the episodes with the highest
    return. ``label_noise`` adds a normal draw of that standard deviation to their actions, in units of the action box
    [-1, 1], and clips the sum to the box. At least one episode stays.
    """
    train = np.flatnonzero(~dataset.heldout)
    if knobs.data_share < 1:
        order = torch.randperm(len(train), generator=stream(0, "anchor/data_share")).numpy()
        train = np.sort(train[order[: _count(knobs.data_share, len(train))]])
    if knobs.top_share < 1:
        order = np.argsort(-dataset.returns_as_logged[train], kind="stable")
        train = np.sort(train[order[: _count(knobs.top_share, len(train))]])
    keep = dataset.heldout.copy()
    keep[train] = True
    chosen = dataset if keep.all() else dataset.of_episodes(keep)
    return _with_noise(chosen, knobs.label_noise) if knobs.label_noise > 0 else chosen


def _count(share: float, n: int) -> int:
    return max(1, round(share * n))


def _with_noise(dataset: Dataset, deviation: float) -> Dataset:
    """The dataset with noise on the actions of its training episodes."""
    noise = torch.randn(dataset.actions.shape, generator=stream(0, "anchor/label_noise")).numpy()
    noise[dataset.heldout_steps] = 0.0
    return replace(dataset, actions=np.clip(dataset.actions + np.float32(deviation) * noise, -1.0, 1.0))
