r"""Implicit Q-learning (Kostrikov et al. 2022, arXiv 2110.06169), warm-started by observed returns.

With twin networks :math:`Q_i`, their slowly following copies :math:`\bar Q_i`, and :math:`V`:

.. math::
   L_V &= \mathbb{E}\, \big| \kappa - \mathbb{1}[u < 0] \big| u^2,
          \quad u = \min_i \bar Q_i(s, a) - V(s) \qquad \text{(eq. 5)} \\
   L_Q &= \mathbb{E} \sum_i \big( r + \gamma (1 - \mathrm{terminated}) V(s') - Q_i(s, a) \big)^2
          \qquad \text{(eq. 6)}

The warm start (:mod:`spar_core.critics.warm_start`) is this project's addition.

The conservative value is :math:`Q_c = \min_i Q_i`.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from spar_core.critics.stacked import Problem, q_values, v_values
from spar_core.critics.td import Objective, TDCritic, TDSettings
from spar_core.training.networks import Stack, per_seed_mean


class IQLSettings(TDSettings):
    expectile: float = Field(
        0.7, gt=0, lt=1, description="0.5 is the mean of the data's actions, towards 1 the best of them"
    )


def expectile_loss(difference: Tensor, expectile: float) -> Tensor:
    """Asymmetric squared error, elementwise (eq. 5): weight ``expectile`` above zero, 1 - it below."""
    weight = torch.where(difference > 0, expectile, 1.0 - expectile)
    return weight * difference.square()


class IQLCritic(TDCritic):
    """Twin Q networks and a V network, S seeds side by side."""

    Settings = IQLSettings

    def objective(self, problem: Problem, target: Stack) -> Objective:
        return Objective(lambda steps: td_loss(self, target, problem, steps))


def td_loss(critic: IQLCritic, target: Stack, problem: Problem, steps: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Eqs. 5 and 6 on the steps [S, B]: bootstrapping goes through truncations and stops at terminations."""
    data, settings = problem.data, problem.settings
    observations, actions = data.at(steps)
    with torch.no_grad():
        next_value = critic.v(data.observations[data.index[steps] + 1])
        backup = problem.scale * data.rewards[steps] + settings.discount * data.alive[steps] * next_value
        follower = q_values(target, observations, actions).min(dim=1).values
    q = q_values(critic.networks, observations, actions)
    v = v_values(critic.state_value, observations).squeeze(1)
    q_loss = per_seed_mean((q - backup.unsqueeze(1)).square())
    v_loss = per_seed_mean(expectile_loss(follower - v, settings.expectile))
    info = {
        "critic/q_loss": q_loss.detach(),
        "critic/v_loss": v_loss.detach(),
        "critic/q_mean": per_seed_mean(q.detach()),
        "critic/v_mean": per_seed_mean(v.detach()),
    }
    return (q.shape[1] * q_loss + v_loss).sum(), info
