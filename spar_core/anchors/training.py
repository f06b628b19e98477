"""Anchors that are networks: their settings, what a kind has to state, and the training that all kinds share."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from spar_core.anchors.base import Anchor, ClonedSettings
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted
from spar_core.training.loop import Info, Loss, minimise
from spar_core.training.networks import MLPShape, Stack, per_seed_mean
from spar_core.training.optimiser import DecayingSettings
from spar_core.training.randomness import Draws, Minibatches, streams

# Held-out steps behind a point of the learning curve. The final quality is measured on all held-out steps.
CURVE_STEPS = 1024


class TrainedAnchorSettings(ClonedSettings, DecayingSettings):
    """Settings of an anchor that learns by gradient steps."""


@dataclass(frozen=True)
class Objective:
    """What the training of an anchor minimises.

    Attributes:
        loss: takes observations [S, B, D], actions [S, B, A] and the next tensor of each of ``draws``, in their order.
            It gives a scalar, summed over seeds, and values [S] for the learning curve.
        draws: random tensors by name.
        helpers: networks that are trained too and not kept, such as an encoder.
    """

    loss: Loss
    draws: Mapping[str, Draws] = field(default_factory=dict)
    helpers: tuple[Stack, ...] = ()


class NetworkAnchor(Anchor):
    """An anchor with one network a seed. A kind states the network's sizes, the objective, and how the anchor acts."""

    Settings: ClassVar[type[TrainedAnchorSettings]] = TrainedAnchorSettings
    # Name of the network in saved tensors.
    network_name: ClassVar[str] = "network"
    settings: TrainedAnchorSettings

    def __init__(self, network: Stack, settings: TrainedAnchorSettings) -> None:
        self.network, self.settings = network, settings

    @classmethod
    @abstractmethod
    def sizes(cls, settings: Any, observation_size: int, action_size: int) -> tuple[int, int]:
        """Number of inputs and of outputs of the network."""

    @abstractmethod
    def objective(self, context: Context) -> Objective:
        """What training minimises."""

    def initialise(self, seeds: Sequence[int]) -> None:
        """Draw the network's first weights."""
        self.network.initialise(streams(seeds, "anchor/initialise"))

    @classmethod
    def clone(cls, context: Context, settings: TrainedAnchorSettings) -> Fitted:
        dataset, seeds = context.dataset, context.seeds
        inputs, outputs = cls.sizes(settings, dataset.observation_size, dataset.action_size)
        anchor = cls(Stack(MLPShape(inputs, settings.hidden, outputs), len(seeds), context.device), settings)
        anchor.initialise(seeds)
        train(anchor, context)
        return Fitted(anchor.network.state(cls.network_name, len(seeds)), curves=context.report.rows)

    @classmethod
    def restore(cls, settings: TrainedAnchorSettings, tensors: Mapping[str, Tensor], device: str = "cpu") -> Self:
        inputs = tensors[f"{cls.network_name}.0.weight"].shape[-2]
        outputs = tensors[f"{cls.network_name}.{len(settings.hidden)}.weight"].shape[-1]
        shape = MLPShape(inputs, settings.hidden, outputs)
        return cls(Stack.restore(shape, tensors, cls.network_name, device), settings)


def train(anchor: NetworkAnchor, context: Context) -> None:
    """Minimise the anchor's objective. The curve holds the loss's values and the error of the anchor's own actions."""
    settings, dataset, data = anchor.settings, context.dataset, context.data
    objective = anchor.objective(context)
    adam = settings.adam(*objective.helpers, anchor.network)
    batches = Minibatches(dataset.train_steps, context.seeds, settings.batch_size, "anchor/batches", context.device)
    held = dataset.heldout_steps
    some = torch.as_tensor(held[:: math.ceil(len(held) / CURVE_STEPS) or 1]).to(context.device)
    held_observations, held_actions = data.at(some)

    def loss(steps: Tensor, *drawn: Tensor) -> tuple[Tensor, Info]:
        return objective.loss(*data.at(steps), *drawn)

    def curve(step: int, info: Info) -> Info:
        error = (anchor.act_on_all(held_observations, len(context.seeds)) - held_actions).square()
        return {**info, "anchor/heldout_loss": per_seed_mean(error)}

    draws = {"batches": batches, **objective.draws}
    minimise(loss, context, adam, draws, name="anchor", steps=settings.steps, curve=curve)
