r"""ReBRAC (a baseline): TD3+BC with deeper networks, layer norm, and a distance to the data in both losses.

With the notation of :mod:`spar_core.improvement.td3_bc`, and the logged next action :math:`a'`:

.. math::
   y &= r + \gamma (1 - \mathrm{terminated}) \big( \min_i \bar Q_i(s', \tilde a')
        - \beta_Q \lVert \tilde a' - a' \rVert^2 \big) \\
   L_\pi &= \mathbb{E} \Big[ -\frac{\min_i Q_i(s, \pi(s))}{\mathbb{E} |\min_i Q_i(s, \pi(s))|}
        + \beta_\pi \lVert \pi(s) - a \rVert^2 \Big]

Where a cut episode ends, no next action was logged, and nothing is taken off the value.

Source: ReBRAC (Tarasov et al. 2023, arXiv 2305.09836, section 3, and the authors' code for the losses' details).
Deviations: those of ``td3_bc``; layer norm before the activation and without gain and bias, where theirs follows it;
networks initialised like all others here; rewards after the dataset's ``reward_shift``, where theirs are multiplied by
100 in AntMaze.
"""

from __future__ import annotations

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from spar_core.improvement.td3_bc import TD3BC, TD3BCSettings, weighed
from spar_core.training.context import Context


class ReBRACSettings(TD3BCSettings):
    """Settings of ReBRAC; the authors chose the last two for each dataset."""

    batch_size: PositiveInt = Field(1024, description="steps of the dataset in a minibatch")
    learning_rate: float = Field(1e-3, gt=0, description="learning rate of Adam, of the policy")
    critic_learning_rate: float = Field(1e-3, gt=0, description="learning rate of Adam, of the critics")
    hidden: tuple[PositiveInt, ...] = Field((256, 256, 256), description="width of each hidden layer")
    layer_norm: bool = Field(True, description="layer norm before each activation of the critics")
    q_weight: float = Field(1.0, ge=0, description="weight of the value, in units of its mean size")
    actor_bc: float = Field(0.01, ge=0, description="weight of the policy's squared distance to the data")
    critic_bc: float = Field(0.01, ge=0, description="what a squared distance to the data takes off a target")


class ReBRAC(TD3BC):
    """A policy of its own, S seeds side by side."""

    Settings = ReBRACSettings

    def policy_loss(self, q: Tensor, chosen: Tensor, actions: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        # The mean over dimensions times their number is the squared distance.
        weight = self.settings.actor_bc * actions.shape[-1]
        return weighed(q.min(dim=1).values, chosen, actions, self.settings.q_weight, weight)

    def penalty(self, context: Context, steps: Tensor, next_actions: Tensor) -> Tensor | float:
        data = context.data
        # The very last step has no next one. The index is clamped, and what is found there is not used.
        following = (steps + 1).clamp(max=len(data.actions) - 1)
        logged = (data.episode[following] == data.episode[steps]) & (following > steps)
        away = next_actions - data.actions[following]
        # Seed by seed, because a larger sum may be split, and then rounded, differently.
        distance = torch.stack([row.square().sum(-1) for row in away])
        weight: float = self.settings.critic_bc
        return weight * (logged * distance).unsqueeze(1)
