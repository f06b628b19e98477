r"""The networks that rules train: a bounded residual on the anchor, or a policy of its own.

.. math:: \text{residual:} \quad \Delta_\theta(s, a_b) = \rho \tanh(\mathrm{MLP}_\theta(s, a_b)), \qquad
   \text{own:} \quad \pi_\theta(s) = \tanh(\mathrm{MLP}_\theta(s)), \quad \Delta_\theta(s, a_b) = \pi_\theta(s) - a_b

The residual's last layer starts at zero, so at step 0 the policy is the anchor, exactly. A policy of its own starts
from a random network and is bounded by no radius. With ``inputs: state`` the residual's network sees s alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from spar_core.improvement.base import Frozen
from spar_core.training.context import Context
from spar_core.training.networks import MLPShape, Stack
from spar_core.training.randomness import streams

Inputs = Literal["state_and_anchor", "state"]
# States over which the mean length of a correction is measured, at most about.
MEASURED = 4096


def seen(inputs: Inputs, observations: Tensor, base: Tensor) -> Tensor:
    """The network's input [S, B, .]: observations [S, B, D], and anchor actions [S, B, A] where ``inputs`` says so."""
    return observations if inputs == "state" else torch.cat([observations, base], dim=-1)


def new_network(
    context: Context, inputs: Inputs, hidden: tuple[int, ...], outputs: int, *, zero_last: bool = True
) -> Stack:
    """An untrained network of what :func:`seen` gives. Its outputs are zero with ``zero_last``."""
    dataset, seeds = context.dataset, context.seeds
    size = dataset.observation_size + (0 if inputs == "state" else dataset.action_size)
    network = Stack(MLPShape(size, hidden, outputs), len(seeds), context.device)
    return network.initialise(streams(seeds, "improvement/initialise"), zero_last=zero_last)


class ResidualActor:
    """A bounded network of (s, a_b), in units of the residual radius."""

    zero_last: ClassVar[bool] = True
    network: Stack

    def __init__(self, frozen: Frozen, settings: Any, network: Stack) -> None:
        self.frozen, self.settings, self.network = frozen, settings, network

    @classmethod
    def inputs(cls, settings: Any) -> Inputs:
        """What the network sees."""
        inputs: Inputs = settings.inputs
        return inputs

    @classmethod
    def at_step_zero(cls, context: Context, frozen: Frozen, settings: Any) -> Self:
        """The untrained actor. A residual's correction is zero everywhere."""
        inputs, outputs = cls.inputs(settings), context.dataset.action_size
        return cls(frozen, settings, new_network(context, inputs, settings.hidden, outputs, zero_last=cls.zero_last))

    @classmethod
    def restore(cls, frozen: Frozen, settings: Any, tensors: Mapping[str, Tensor], device: str = "cpu") -> Self:
        """The frozen actor of the tensors named ``network``."""
        inputs = tensors["network.0.weight"].shape[-2]
        shape = MLPShape(inputs, settings.hidden, frozen.residual.radius.shape[-1])
        return cls(frozen, settings, Stack.restore(shape, tensors, "network", device))

    def bounded(self, observations: Tensor, base: Tensor) -> Tensor:
        """The network's answer in (-1, 1), [S, B, A]."""
        return torch.tanh(self.network(seen(self.inputs(self.settings), observations, base)))

    def targets(self, actions: Tensor, base: Tensor) -> Tensor:
        """What :meth:`bounded` should answer where the action [N, A] is right, [S, N, A]; clipped to the radius."""
        return ((actions - base) / self.frozen.residual.radius.unsqueeze(1)).clamp(-1.0, 1.0)

    def correction(self, observations: Tensor, base: Tensor) -> Tensor:
        """Delta [S, B, A]."""
        return self.frozen.residual.radius.unsqueeze(1) * self.bounded(observations, base)

    def action(self, observations: Tensor, base: Tensor) -> Tensor:
        """The policy's action [S, B, A] in [-1, 1], differentiable. No gradient passes where the action is clipped."""
        return (base + self.correction(observations, base)).clamp(-1.0, 1.0)


class OwnActor(ResidualActor):
    """A policy of its own, which does not see the anchor and is not bounded by its radius."""

    zero_last = False

    @classmethod
    def inputs(cls, settings: Any) -> Inputs:
        return "state"

    def targets(self, actions: Tensor, base: Tensor) -> Tensor:
        return actions.expand_as(base)

    def correction(self, observations: Tensor, base: Tensor) -> Tensor:
        return self.bounded(observations, base) - base

    def action(self, observations: Tensor, base: Tensor) -> Tensor:
        return self.bounded(observations, base)


@torch.no_grad()
def correction_norm(actor: ResidualActor, context: Context, base: Tensor) -> list[float]:
    """Mean length of the correction of ``base`` [S, N, A] for each seed, over evenly spread training steps."""
    data = context.data
    train = torch.as_tensor(context.dataset.train_steps).to(data.index.device)
    steps = train[:: max(1, len(train) // MEASURED)]
    observations = data.observations[data.index[steps]].expand(len(base), -1, -1)
    return [row.norm(dim=-1).mean().item() for row in actor.correction(observations, base[:, steps])]
