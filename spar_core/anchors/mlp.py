r"""Deterministic behaviour cloning.

Objective, over the training steps (s, a) of the dataset:

.. math:: \min_\theta \; \mathbb{E}_{(s, a)} \lVert \pi_\theta(s) - a \rVert^2, \qquad
          \pi_\theta(s) = \tanh(\mathrm{MLP}_\theta(s))

Source: behaviour cloning by regression (Pomerleau 1989), the "pure behaviour cloning" base of SPAR
(arXiv 2605.27877). The network's size is this project's choice.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from spar_core.anchors.base import Anchor
from spar_core.anchors.training import TrainedAnchorSettings, train
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted
from spar_core.training.networks import MLPShape, Stack, per_seed_mean
from spar_core.training.randomness import streams


class MLPAnchorSettings(TrainedAnchorSettings):
    pass


def cloning_loss(network: Stack, observations: Tensor, actions: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean squared error between actions in [-1, 1], a value a seed."""
    error = per_seed_mean((torch.tanh(network(observations)) - actions).square())
    return error.sum(), {"anchor/loss": error.detach()}


class MLPAnchor(Anchor):
    """A tanh-bounded network trained by squared error."""

    Settings = MLPAnchorSettings

    def __init__(self, network: Stack) -> None:
        self.network = network

    @classmethod
    def clone(cls, context: Context, settings: MLPAnchorSettings) -> Fitted:
        dataset, seeds, report, device = context.dataset, context.seeds, context.report, context.device
        shape = MLPShape(dataset.observation_size, settings.hidden, dataset.action_size)
        network = Stack(shape, len(seeds), device).initialise(streams(seeds, "anchor/initialise"))
        train(
            cls(network),
            [network],
            lambda observations, actions: cloning_loss(network, observations, actions),
            dataset,
            settings,
            seeds,
            report,
            device,
        )
        return Fitted(network.state("network", len(seeds)), curves=report.rows)

    @classmethod
    def restore(cls, settings: MLPAnchorSettings, tensors: Mapping[str, Tensor], device: str = "cpu") -> MLPAnchor:
        inputs = tensors["network.0.weight"].shape[-2]
        outputs = tensors[f"network.{len(settings.hidden)}.weight"].shape[-1]
        return cls(Stack.restore(MLPShape(inputs, settings.hidden, outputs), tensors, "network", device))

    @torch.no_grad()
    def act(self, observations: Tensor) -> Tensor:
        return torch.tanh(self.network(observations))
