r"""SARSA: the value of the behaviour itself, on which one step of policy improvement builds.

With twin networks :math:`Q_i`, their slowly following copies :math:`\bar Q_i`, the logged next action
:math:`a'`, and :math:`V`:

.. math::
   L_Q &= \mathbb{E} \sum_i \big( r + \gamma (1 - \mathrm{terminated}) \min_j \bar Q_j(s', a') - Q_i(s, a) \big)^2 \\
   L_V &= \mathbb{E} \big( \min_i \bar Q_i(s, a) - V(s) \big)^2

At the last step of a truncated episode no next action was logged, and :math:`V(s')` stands in for
:math:`\min_j \bar Q_j(s', a')`. No action outside the data is valued.

Source: Brandfonbrener et al. 2021 ("Offline RL without off-policy evaluation", arXiv 2106.08909:
estimate :math:`Q^\beta`, then improve once). Deviations: twins where the paper has one network, V, which AWR and the
truncated ends need, and the warm start by observed returns, which estimate the same values.

The conservative value is :math:`Q_c = \min_i Q_i`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spar_core.critics.stacked import Problem, q_values, v_values
from spar_core.critics.td import Objective, TDCritic, TDSettings
from spar_core.training.networks import Stack, per_seed_mean


class SARSASettings(TDSettings):
    """The settings of every temporal-difference critic."""


class SARSACritic(TDCritic):
    """Twin Q networks and a V network, S seeds side by side."""

    Settings = SARSASettings
    conservatism = "minimum of two networks, of the behaviour's own value"

    def objective(self, problem: Problem, target: Stack) -> Objective:
        return Objective(lambda steps: sarsa_loss(self, target, problem, steps))


def sarsa_loss(critic: SARSACritic, target: Stack, problem: Problem, steps: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Squared errors at the steps [S, B]: bootstrapping from the logged next action, or from V at a cut."""
    data, settings = problem.data, problem.settings
    observations, actions = data.at(steps)
    with torch.no_grad():
        # The last step of the dataset has no step after it; its value here is not used.
        following = (steps + 1).clamp(max=len(data.actions) - 1)
        logged = (data.episode[following] == data.episode[steps]) & (following > steps)
        next_observations = data.observations[data.index[steps] + 1]
        next_q = q_values(target, next_observations, data.actions[following]).min(dim=1).values
        next_value = torch.where(logged, next_q, critic.v(next_observations))
        backup = problem.scale * data.rewards[steps] + settings.discount * data.alive[steps] * next_value
        follower = q_values(target, observations, actions).min(dim=1).values
    q = q_values(critic.networks, observations, actions)
    v = v_values(critic.state_value, observations).squeeze(1)
    q_loss = per_seed_mean((q - backup.unsqueeze(1)).square())
    v_loss = per_seed_mean((follower - v).square())
    info = {
        "critic/q_loss": q_loss.detach(),
        "critic/v_loss": v_loss.detach(),
        "critic/q_mean": per_seed_mean(q.detach()),
        "critic/v_mean": per_seed_mean(v.detach()),
    }
    return (q.shape[1] * q_loss + v_loss).sum(), info
