r"""An ensemble of implicit Q-learners with a lower confidence bound.

Each of M members has a Q network with its own target copy, and a V network of its own, and bootstraps from that V
alone (no minimum anywhere):

.. math::
   L_V^m &= \mathbb{E}\, \big| \kappa_e - \mathbb{1}[u < 0] \big| u^2, \quad u = \bar Q_m(s, a) - V_m(s) \\
   L_Q^m &= \mathbb{E} \big( r + \gamma (1 - \mathrm{terminated}) V_m(s') - Q_m(s, a) \big)^2 \\
   Q_c &= \operatorname{mean}_m Q_m - \kappa \operatorname{std}_m Q_m

Sources: the losses of IQL (Kostrikov et al. 2022, arXiv 2110.06169, eqs. 5 and 6), one learner a member; the bound
is that of ensembles with independent targets (Ghasemipour et al. 2022, arXiv 2205.13703, "Why so pessimistic?").
Deviations: members differ in their initial weights only and see the same minibatches; in the warm start truncated
tails are continued by the members' mean V, the same for all. V, as comparators ask it, is the members' mean V_m,
with nothing subtracted: where members disagree, Q_c - V is low for every action.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from spar_core.critics.base import mean_of, spread_of
from spar_core.critics.iql import IQLSettings, expectile_loss
from spar_core.critics.stacked import Problem, q_values, v_values
from spar_core.critics.td import Objective, TDCritic
from spar_core.training.networks import Stack, per_seed_mean


class IQLEnsembleSettings(IQLSettings):
    members: PositiveInt = Field(5, description="networks of Q, each with a network of V")
    kappa: float = Field(1.0, ge=0, description="standard deviations that Q_c lies below the mean")


class IQLEnsembleCritic(TDCritic):
    """M members of one Q and one V network each, S seeds side by side."""

    Settings = IQLEnsembleSettings
    conservatism = "mean minus kappa standard deviations of independent networks"
    stack_name = "members"

    @classmethod
    def counts(cls, settings: Any) -> tuple[int, int]:
        return settings.members, settings.members

    def conservative_q(self, observations: Tensor, actions: Tensor) -> Tensor:
        values, kappa = q_values(self.networks, observations, actions), float(self.settings.kappa)
        return mean_of(values) - kappa * spread_of(values)

    def objective(self, problem: Problem, target: Stack) -> Objective:
        return Objective(lambda steps: ensemble_loss(self, target, problem, steps))


def ensemble_loss(
    critic: IQLEnsembleCritic, target: Stack, problem: Problem, steps: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """The losses of all members at the steps [S, B], each with its own backup."""
    data, settings = problem.data, problem.settings
    observations, actions = data.at(steps)
    with torch.no_grad():
        next_values = v_values(critic.state_value, data.observations[data.index[steps] + 1])
        reward, alive = problem.scale * data.rewards[steps].unsqueeze(1), data.alive[steps].unsqueeze(1)
        backups = reward + settings.discount * alive * next_values
        followers = q_values(target, observations, actions)
    q = q_values(critic.networks, observations, actions)
    v = v_values(critic.state_value, observations)
    q_loss = per_seed_mean((q - backups).square())
    v_loss = per_seed_mean(expectile_loss(followers - v, settings.expectile))
    info = {
        "critic/q_loss": q_loss.detach(),
        "critic/v_loss": v_loss.detach(),
        "critic/q_mean": per_seed_mean(q.detach()),
        "critic/v_mean": per_seed_mean(v.detach()),
        "critic/spread": per_seed_mean(spread_of(q.detach())),
    }
    members: int = settings.members
    return members * (q_loss + v_loss).sum(), info
