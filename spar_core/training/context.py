"""What every fit is given: the data, the seeds, and where the work runs and reports."""

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
        dataset: the logged data; a fit learns from its training episodes alone.
        seeds: one model is fitted for each, side by side.
        report: takes progress and learning curves, keeps checkpoints, and says when to stop.
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
        """Row numbers of the seeds [S, 1]: ``values[rows, steps]`` takes each seed's steps [S, B] of [S, N, ...]."""
        return torch.arange(len(self.seeds), device=self.device).unsqueeze(1)

    def on(self, dataset: Dataset) -> Context:
        """The same fit, of another dataset."""
        return replace(self, dataset=dataset)
