"""The interface of every critic: a frozen, conservative estimate of the return of an action, for a group of seeds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import reduce
from typing import Any, ClassVar

import torch
from torch import Tensor

from spar_core.data.dataset import Dataset
from spar_core.settings import Settings as BaseSettings
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted


class Critic(ABC):
    """Values are in scaled reward units (see :func:`reward_scale`); only their differences matter to SPAR."""

    Settings: ClassVar[type[BaseSettings]]
    # What makes Q_c conservative, in a few words such as "minimum of two networks".
    conservatism: ClassVar[str]

    @classmethod
    @abstractmethod
    def fit(cls, context: Context, settings: Any) -> Fitted:
        """Fit one critic for each seed to the training episodes. No policy or anchor takes part.

        Raises:
            SparError: the fit diverged.
            Interrupted: the reporter asked to stop.
        """

    @classmethod
    @abstractmethod
    def restore(cls, settings: Any, tensors: Mapping[str, Tensor], device: str = "cpu") -> Critic:
        """The frozen critic of the tensors that :meth:`fit` returned."""

    @abstractmethod
    def conservative_q(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Q_c [S, B] of actions [S, B, A] at standardised observations [S, B, D], differentiable in the actions.

        Only comparators that follow the value gradient call this. Everything else calls :meth:`q`.
        """

    @torch.no_grad()
    def q(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Q_c [S, B], without a gradient."""
        return self.conservative_q(observations, actions)

    @torch.no_grad()
    def members(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Values of the M networks of each seed, [S, M, B], in units of Q_c. A critic of one network gives Q_c."""
        return self.q(observations, actions).unsqueeze(1)

    @abstractmethod
    def uncertainty(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Standard deviation over the networks of each seed, [S, B], in units of Q_c. It is 0 for one network."""

    @abstractmethod
    def v(self, observations: Tensor) -> Tensor:
        """State values [S, B], without a gradient."""


def reward_scale(dataset: Dataset, return_range: float) -> float:
    """Factor of the rewards that makes the returns of the training episodes span ``return_range``.

    IQL scales rewards like this (Kostrikov et al. 2022, section 5 and its code), so that one learning rate and one
    AWR temperature serve tasks whose rewards differ in size.
    """
    returns = dataset.episode_returns[~dataset.heldout]
    span = float(returns.max() - returns.min())
    # Where all episodes return the same there is no range to stretch.
    return return_range / span if span > 1e-6 else 1.0


def mean_of(values: Tensor) -> Tensor:
    """Mean over the networks, [S, B], of values [S, M, B].

    Networks are added one by one, because the order of a reduction's sum may depend on the number of seeds.
    """
    networks = values.unbind(1)
    return reduce(torch.add, networks) / len(networks)


def spread_of(values: Tensor) -> Tensor:
    """Standard deviation over the networks, [S, B], of values [S, M, B]. Where it is 0, its gradient is 0 too."""
    mean = mean_of(values)
    variance = mean_of(torch.stack([(network - mean).square() for network in values.unbind(1)], dim=1))
    some = variance > 0
    return torch.where(some, torch.where(some, variance, 1.0).sqrt(), 0.0)
