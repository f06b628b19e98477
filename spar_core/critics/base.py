"""What every critic is: a frozen, conservative estimate of the return of an action, for a group of seeds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor

from spar_core.data.dataset import Dataset
from spar_core.fitted import Fitted
from spar_core.reporter import Reporter
from spar_core.settings import Settings as BaseSettings


class Critic(ABC):
    """Values are in scaled reward units (see :func:`reward_scale`); only their differences matter to SPAR."""

    Settings: ClassVar[type[BaseSettings]]

    @classmethod
    @abstractmethod
    def fit(
        cls, dataset: Dataset, settings: BaseSettings, seeds: Sequence[int], report: Reporter, device: str
    ) -> Fitted:
        """Fit to the training episodes, once a seed. No policy or anchor is involved."""

    @classmethod
    @abstractmethod
    def restore(cls, settings: BaseSettings, tensors: Mapping[str, Tensor], device: str = "cpu") -> Critic:
        """The frozen critic of the tensors that :meth:`fit` returned."""

    @abstractmethod
    def q(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Conservative values Q_c [S, B] of actions [S, B, A] at standardised observations [S, B, D]."""

    @abstractmethod
    def v(self, observations: Tensor) -> Tensor:
        """State values [S, B]."""


def reward_scale(dataset: Dataset, return_range: float) -> float:
    """Factor that stretches the range of episode returns to ``return_range``.

    The convention of IQL (Kostrikov et al. 2022, section 5 and its code), so that one learning rate and one
    AWR temperature serve tasks of different reward sizes. Fitted to the training episodes only.
    """
    returns = dataset.episode_returns[~dataset.heldout]
    span = float(returns.max() - returns.min())
    # A dataset whose episodes all return the same has no range to stretch.
    return return_range / span if span > 1e-6 else 1.0
