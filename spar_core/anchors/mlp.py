r"""Deterministic behaviour cloning.

Objective, over the training steps (s, a) of the dataset:

.. math:: \min_\theta \; \mathbb{E}_{(s, a)} \lVert \pi_\theta(s) - a \rVert^2, \qquad
          \pi_\theta(s) = \tanh(\mathrm{MLP}_\theta(s))

Source: behaviour cloning by regression (Pomerleau 1989), the "pure behaviour cloning" base of SPAR
(arXiv 2605.27877). The network's size is this project's choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from spar_core.anchors.base import Anchor
from spar_core.data.dataset import Dataset
from spar_core.data.device import DeviceData
from spar_core.fitted import Fitted
from spar_core.networks import Adam, MLPShape, Stack, per_seed_mean
from spar_core.randomness import Minibatches, streams
from spar_core.reporter import Reporter, is_curve_point
from spar_core.settings import Settings


class MLPAnchorSettings(Settings):
    steps: PositiveInt = 6000
    batch_size: PositiveInt = 256
    learning_rate: float = Field(1e-3, gt=0)
    cosine_decay: bool = True
    hidden: tuple[PositiveInt, ...] = (256, 256)


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
    def fit(
        cls, dataset: Dataset, settings: MLPAnchorSettings, seeds: Sequence[int], report: Reporter, device: str
    ) -> Fitted:
        data = DeviceData.of(dataset, device)
        shape = MLPShape(dataset.observation_size, settings.hidden, dataset.action_size)
        network = Stack(shape, len(seeds), device).initialise(streams(seeds, "anchor/initialise"))
        adam = Adam(settings.learning_rate, network, decay_steps=settings.steps if settings.cosine_decay else None)
        batches = Minibatches(dataset.train_steps, seeds, settings.batch_size, "anchor/batches")
        heldout = data.at(torch.as_tensor(dataset.heldout_steps).to(device))
        # Every so many training steps: enough for the same error on data that the network has seen.
        seen = dataset.train_steps[:: max(1, len(dataset.train_steps) // len(dataset.heldout_steps))]
        anchor = cls(network)

        for step in range(1, settings.steps + 1):
            observations, actions = data.at(batches.next().to(device))
            loss, info = cloning_loss(network, observations, actions)
            adam.minimise(loss)
            if is_curve_point(step, settings.steps):
                error = anchor.error(*heldout)
                report.log(step, {**info, "anchor/heldout_loss": error})
            report.advance(len(seeds))

        return Fitted(
            network.state("network", len(seeds)),
            {
                "anchor/heldout_mse": error.tolist(),
                "anchor/train_mse": anchor.error(*data.at(torch.as_tensor(seen).to(device))).tolist(),
            },
            report.rows,
        )

    @torch.no_grad()
    def error(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Mean squared error a seed, [S], on steps shared by all seeds ([n, D], [n, A])."""
        return per_seed_mean((self.act_on_all(observations, self.network.n) - actions).square())

    @classmethod
    def restore(cls, settings: MLPAnchorSettings, tensors: Mapping[str, Tensor], device: str = "cpu") -> MLPAnchor:
        inputs = tensors["network.0.weight"].shape[-2]
        outputs = tensors[f"network.{len(settings.hidden)}.weight"].shape[-1]
        return cls(Stack.restore(MLPShape(inputs, settings.hidden, outputs), tensors, "network", device))

    @torch.no_grad()
    def act(self, observations: Tensor) -> Tensor:
        return torch.tanh(self.network(observations))
