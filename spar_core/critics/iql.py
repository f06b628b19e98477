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

from spar_core.critics.stacked import Problem, q_values, smallest_q, v_values
from spar_core.critics.td import Objective, TDCritic, TDSettings, mean_errors
from spar_core.training.loop import Info
from spar_core.training.networks import Stack


class IQLSettings(TDSettings):
    """Settings of implicit Q-learning."""

    expectile: float = Field(
        0.7, gt=0, lt=1, description="0.5 is the mean of the data's actions, towards 1 the best of them"
    )


class IQLCritic(TDCritic):
    """Twin Q networks and a V network, S seeds side by side."""

    Settings = IQLSettings
    settings: IQLSettings

    def objective(self, problem: Problem, target: Stack) -> Objective:
        return Objective(lambda steps: iql_loss(self, target, problem, steps))


def iql_loss(critic: IQLCritic, target: Stack, problem: Problem, steps: Tensor) -> tuple[Tensor, Info]:
    """Equations 5 and 6 at the steps [S, B]."""
    observations, actions, next_observations = problem.at(steps)
    with torch.no_grad():
        q_targets = problem.backups(steps, v_values(critic.state_value, next_observations))
        v_targets = smallest_q(target, observations, actions)
    q = q_values(critic.networks, observations, actions)
    v = v_values(critic.state_value, observations)
    v_errors = expectile_loss(v_targets - v, critic.settings.expectile)
    q_loss, v_loss, info = mean_errors(q, v, (q - q_targets).square(), v_errors)
    return (q.shape[1] * q_loss + v_loss).sum(), info


def expectile_loss(difference: Tensor, expectile: float) -> Tensor:
    """Asymmetric squared error, elementwise (equation 5): its weight is ``expectile`` above zero, 1 - it below."""
    weight = torch.where(difference > 0, expectile, 1.0 - expectile)
    return weight * difference.square()
