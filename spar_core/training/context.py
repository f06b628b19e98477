"""The context of a fit: its data, its seeds, its device and its reporter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from spar_core.data.dataset import Dataset
from spar_core.data.device import DeviceData
from spar_core.training.reporter import Reporter


@dataclass(frozen=True)
class Context:
    """One fit of a group of seeds.

    Attributes:
        dataset: the logged data; a fit uses its training episodes only.
        seeds: the S seeds, whose models are fitted side by side.
        report: receives progress and learning curves, holds the checkpoints, and says when to stop.
        device: a Torch device, such as "cpu" or "cuda".
    """

    dataset: Dataset
    seeds: Sequence[int]
    report: Reporter
    device: str = "cpu"

    @classmethod
    def quiet(cls, dataset: Dataset, seeds: Sequence[int], device: str = "cpu") -> Context:
        """A context whose reporter shows nothing and keeps no checkpoints."""
        return cls(dataset, seeds, Reporter(seeds), device)

    @cached_property
    def data(self) -> DeviceData:
        """The dataset's arrays on the device."""
        return DeviceData.of(self.dataset, self.device)

    @cached_property
    def rows(self) -> Tensor:
        """Row numbers of the seeds, [S, 1]; ``values[rows, steps]`` selects steps [S, B] from values [S, N, ...]."""
        return torch.arange(len(self.seeds), device=self.device).unsqueeze(1)

    def on(self, dataset: Dataset) -> Context:
        """This context with another dataset."""
        return replace(self, dataset=dataset)
