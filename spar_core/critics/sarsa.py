r"""SARSA: the value of the behaviour itself, from which one step of policy improvement starts.

With twin networks :math:`Q_i`, their slowly following copies :math:`\bar Q_i`, the logged next action
:math:`a'`, and :math:`V`:

.. math::
   L_Q &= \mathbb{E} \sum_i \big( r + \gamma (1 - \mathrm{terminated}) \min_j \bar Q_j(s', a') - Q_i(s, a) \big)^2 \\
   L_V &= \mathbb{E} \big( \min_i \bar Q_i(s, a) - V(s) \big)^2

At the last step of a truncated episode no next action was logged; there :math:`V(s')` stands in for
:math:`\min_j \bar Q_j(s', a')`. No target asks for an action outside the data.

Source: Brandfonbrener et al. 2021 ("Offline RL without off-policy evaluation", arXiv 2106.08909:
estimate :math:`Q^\beta`, then improve once). Deviations: twins where the paper has one network; V, which AWR and the
truncated ends need; and the warm start by observed returns, which estimate the same values.

The conservative value is :math:`Q_c = \min_i Q_i`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spar_core.critics.stacked import Problem, q_values, smallest_q, v_values
from spar_core.critics.td import Objective, TDCritic, TDSettings, mean_errors
from spar_core.training.loop import Info
from spar_core.training.networks import Stack


class SARSASettings(TDSettings):
    """Settings of SARSA."""


class SARSACritic(TDCritic):
    """Twin Q networks and a V network, S seeds side by side."""

    Settings = SARSASettings
    conservatism = "minimum of two networks, of the behaviour's own value"

    def objective(self, problem: Problem, target: Stack) -> Objective:
        return Objective(lambda steps: sarsa_loss(self, target, problem, steps))


def sarsa_loss(critic: SARSACritic, target: Stack, problem: Problem, steps: Tensor) -> tuple[Tensor, Info]:
    """Squared errors at the steps [S, B]. Targets bootstrap from the logged next action, or from V at a cut."""
    data = problem.context.data
    observations, actions, next_observations = problem.at(steps)
    with torch.no_grad():
        # The very last step has no next one. The index is clamped, and the value found there is not used.
        following = (steps + 1).clamp(max=len(data.actions) - 1)
        logged = (data.episode[following] == data.episode[steps]) & (following > steps)
        next_q = smallest_q(target, next_observations, data.actions[following])
        next_v = v_values(critic.state_value, next_observations)
        q_targets = problem.backups(steps, torch.where(logged.unsqueeze(1), next_q, next_v))
        v_targets = smallest_q(target, observations, actions)
    q = q_values(critic.networks, observations, actions)
    v = v_values(critic.state_value, observations)
    q_loss, v_loss, info = mean_errors(q, v, (q - q_targets).square(), (v_targets - v).square())
    return (q.shape[1] * q_loss + v_loss).sum(), info
