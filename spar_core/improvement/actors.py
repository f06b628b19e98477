r"""The networks that rules train: a bounded residual on the anchor, or a policy of its own beside it.

.. math:: \text{residual:} \quad \Delta_\theta(s, a_b) = \rho \tanh(\mathrm{MLP}_\theta(s, a_b)), \qquad
   \text{own:} \quad \pi_\theta(s) = \tanh(\mathrm{MLP}_\theta(s)), \quad \Delta_\theta(s, a_b) = \pi_\theta(s) - a_b

The residual's last layer starts at zero, so at step 0 it is the anchor, exactly. A policy of its own starts
from a random network, knows no radius, and meets the anchor only in that :math:`a_b + \Delta_\theta` gives
it back (to the last bit or next to it). With ``inputs: state`` the residual's network sees s alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from spar_core.data.dataset import Dataset
from spar_core.improvement.base import Frozen
from spar_core.settings import Settings
from spar_core.training.networks import MLPShape, Stack
from spar_core.training.randomness import streams

Inputs = Literal["state_and_anchor", "state"]


class NetworkSettings(Settings):
    """Settings of every rule that trains a network."""

    steps: PositiveInt = 5000
    batch_size: PositiveInt = 256
    learning_rate: float = Field(1e-3, gt=0)
    cosine_decay: bool = True
    hidden: tuple[PositiveInt, ...] = (256, 256)


class ResidualNetworkSettings(NetworkSettings):
    """Settings of every rule whose network corrects the anchor."""

    inputs: Inputs = "state_and_anchor"


def seen(inputs: Inputs, observations: Tensor, base: Tensor) -> Tensor:
    """What a network sees of states and anchor actions, [S, B, .]."""
    return observations if inputs == "state" else torch.cat([observations, base], dim=-1)


def new_network(
    dataset: Dataset,
    inputs: Inputs,
    hidden: tuple[int, ...],
    outputs: int,
    seeds: Sequence[int],
    device: str,
    *,
    zero_last: bool = True,
) -> Stack:
    """An untrained network of what :func:`seen` gives; its outputs are zero unless told otherwise."""
    size = dataset.observation_size + (0 if inputs == "state" else dataset.action_size)
    network = Stack(MLPShape(size, hidden, outputs), len(seeds), device)
    return network.initialise(streams(seeds, "improvement/initialise"), zero_last=zero_last)


class ResidualActor:
    """A bounded network of (s, a_b), in units of the residual radius."""

    zero_last: ClassVar[bool] = True

    def __init__(self, frozen: Frozen, settings: NetworkSettings, network: Stack) -> None:
        self.frozen, self.settings, self.network = frozen, settings, network

    @classmethod
    def inputs(cls, settings: NetworkSettings) -> Inputs:
        """What the network sees."""
        return settings.inputs

    @classmethod
    def at_step_zero(
        cls, dataset: Dataset, frozen: Frozen, settings: NetworkSettings, seeds: Sequence[int], device: str
    ) -> Self:
        """Untrained; a residual's correction is zero everywhere."""
        inputs, outputs = cls.inputs(settings), dataset.action_size
        network = new_network(dataset, inputs, settings.hidden, outputs, seeds, device, zero_last=cls.zero_last)
        return cls(frozen, settings, network)

    @classmethod
    def restore(
        cls, frozen: Frozen, settings: NetworkSettings, tensors: Mapping[str, Tensor], device: str = "cpu"
    ) -> Self:
        """The frozen actor of the tensors named ``network``."""
        inputs = tensors["network.0.weight"].shape[-2]
        shape = MLPShape(inputs, settings.hidden, frozen.residual.radius.shape[-1])
        return cls(frozen, settings, Stack.restore(shape, tensors, "network", device))

    def bounded(self, observations: Tensor, base: Tensor) -> Tensor:
        """The network's answer in (-1, 1), [S, B, A]."""
        return torch.tanh(self.network(seen(self.inputs(self.settings), observations, base)))

    def targets(self, actions: Tensor, base: Tensor) -> Tensor:
        """What ``bounded`` should answer where the action [N, A] is right, [S, N, A]; clipped to the radius."""
        return ((actions - base) / self.frozen.residual.radius.unsqueeze(1)).clamp(-1.0, 1.0)

    def correction(self, observations: Tensor, base: Tensor) -> Tensor:
        """Delta [S, B, A]."""
        return self.frozen.residual.radius.unsqueeze(1) * self.bounded(observations, base)

    def action(self, observations: Tensor, base: Tensor) -> Tensor:
        """The policy's action in [-1, 1], differentiable; no gradient passes where it is clipped."""
        return (base + self.correction(observations, base)).clamp(-1.0, 1.0)


class OwnActor(ResidualActor):
    """A policy of its own: the anchor is not seen, and its radius bounds nothing."""

    zero_last = False

    @classmethod
    def inputs(cls, settings: NetworkSettings) -> Inputs:
        return "state"

    def targets(self, actions: Tensor, base: Tensor) -> Tensor:
        return actions.expand_as(base)

    def correction(self, observations: Tensor, base: Tensor) -> Tensor:
        return self.bounded(observations, base) - base

    def action(self, observations: Tensor, base: Tensor) -> Tensor:
        return self.bounded(observations, base)
