r"""Deterministic behaviour cloning.

Objective, over the training steps (s, a) of the dataset:

.. math:: \min_\theta \; \mathbb{E}_{(s, a)} \lVert \pi_\theta(s) - a \rVert^2, \qquad
          \pi_\theta(s) = \tanh(\mathrm{MLP}_\theta(s))

Source: behaviour cloning by regression (Pomerleau 1989), the "pure behaviour cloning" base of SPAR
(arXiv 2605.27877). The network's size is this project's choice.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from spar_core.anchors.training import NetworkAnchor, Objective, TrainedAnchorSettings
from spar_core.training.context import Context
from spar_core.training.loop import Info
from spar_core.training.networks import Stack, per_seed_mean


def cloning_loss(network: Stack, observations: Tensor, actions: Tensor) -> tuple[Tensor, Info]:
    """Mean squared error of actions [S, B, A] in [-1, 1], for each seed."""
    error = per_seed_mean((torch.tanh(network(observations)) - actions).square())
    return error.sum(), {"anchor/loss": error.detach()}


class MLPAnchor(NetworkAnchor):
    """A tanh-bounded network trained by squared error."""

    @classmethod
    def sizes(cls, settings: TrainedAnchorSettings, observation_size: int, action_size: int) -> tuple[int, int]:
        return observation_size, action_size

    def objective(self, context: Context) -> Objective:
        return Objective(partial(cloning_loss, self.network))

    @torch.no_grad()
    def act(self, observations: Tensor) -> Tensor:
        return torch.tanh(self.network(observations))
