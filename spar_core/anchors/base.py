"""What every anchor is: a frozen policy of observations, for a group of seeds side by side."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from spar_core.data.dataset import Dataset
from spar_core.fitted import Fitted
from spar_core.networks import CHUNK
from spar_core.reporter import Reporter
from spar_core.settings import Settings as BaseSettings


class Anchor(ABC):
    """A behaviour-cloned policy, frozen: no parameter of it ever gets a gradient."""

    Settings: ClassVar[type[BaseSettings]]

    @classmethod
    @abstractmethod
    def fit(
        cls, dataset: Dataset, settings: BaseSettings, seeds: Sequence[int], report: Reporter, device: str
    ) -> Fitted:
        """Clone the behaviour of the dataset's training episodes, once a seed."""

    @classmethod
    @abstractmethod
    def restore(cls, settings: BaseSettings, tensors: Mapping[str, Tensor], device: str = "cpu") -> Anchor:
        """The frozen anchor of the tensors that :meth:`fit` returned."""

    @abstractmethod
    def act(self, observations: Tensor) -> Tensor:
        """Deterministic actions [S, B, A] in [-1, 1] for standardised observations [S, B, D]."""

    @torch.no_grad()
    def act_on_all(self, observations: Tensor, seeds: int) -> Tensor:
        """Actions [S, n, A] of every seed on the same observations [n, D], in chunks of fixed size."""
        parts = [self.act(chunk.unsqueeze(0).expand(seeds, -1, -1)) for chunk in observations.split(CHUNK)]
        return torch.cat(parts, dim=1)
