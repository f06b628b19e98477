r"""An ensemble of implicit Q-learners with a lower confidence bound.

Each of M members has a Q network with its own target copy, and a V network of its own, and bootstraps from that V
alone (there is no minimum anywhere):

.. math::
   L_V^m &= \mathbb{E}\, \big| \kappa_e - \mathbb{1}[u < 0] \big| u^2, \quad u = \bar Q_m(s, a) - V_m(s) \\
   L_Q^m &= \mathbb{E} \big( r + \gamma (1 - \mathrm{terminated}) V_m(s') - Q_m(s, a) \big)^2 \\
   Q_c &= \operatorname{mean}_m Q_m - \kappa \operatorname{std}_m Q_m

Sources: the losses are those of IQL (Kostrikov et al. 2022, arXiv 2110.06169, eqs. 5 and 6), one learner a member; the
bound is that of ensembles with independent targets (Ghasemipour et al. 2022, arXiv 2205.13703, "Why so pessimistic?").
Deviations: members differ in their initial weights only and see the same minibatches; in the warm start the members'
mean V continues truncated episodes for all members. Comparators that ask for V get the members' mean V_m, with nothing
subtracted: where members disagree, Q_c - V is low for every action.
"""

from __future__ import annotations

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from spar_core.critics.base import mean_of, spread_of
from spar_core.critics.iql import IQLSettings, expectile_loss
from spar_core.critics.stacked import Problem, q_values, v_values
from spar_core.critics.td import Objective, TDCritic, mean_errors
from spar_core.training.loop import Info
from spar_core.training.networks import Stack, per_seed_mean


class IQLEnsembleSettings(IQLSettings):
    """Settings of an ensemble of implicit Q-learners."""

    members: PositiveInt = Field(5, description="members, each a Q network with a V network of its own")
    kappa: float = Field(1.0, ge=0, description="standard deviations that Q_c lies below the members' mean")


class IQLEnsembleCritic(TDCritic):
    """M members of one Q and one V network each, S seeds side by side."""

    Settings = IQLEnsembleSettings
    conservatism = "mean minus kappa standard deviations of independent networks"
    stack_name = "members"
    settings: IQLEnsembleSettings

    @classmethod
    def counts(cls, settings: IQLEnsembleSettings) -> tuple[int, int]:
        return settings.members, settings.members

    def conservative_q(self, observations: Tensor, actions: Tensor) -> Tensor:
        values = q_values(self.networks, observations, actions)
        return mean_of(values) - self.settings.kappa * spread_of(values)

    def objective(self, problem: Problem, target: Stack) -> Objective:
        return Objective(lambda steps: ensemble_loss(self, target, problem, steps))


def ensemble_loss(critic: IQLEnsembleCritic, target: Stack, problem: Problem, steps: Tensor) -> tuple[Tensor, Info]:
    """The losses of all members at the steps [S, B], each with its own backup."""
    observations, actions, next_observations = problem.at(steps)
    with torch.no_grad():
        q_targets = problem.backups(steps, v_values(critic.state_value, next_observations))
        v_targets = q_values(target, observations, actions)
    q = q_values(critic.networks, observations, actions)
    v = v_values(critic.state_value, observations)
    v_errors = expectile_loss(v_targets - v, critic.settings.expectile)
    q_loss, v_loss, info = mean_errors(q, v, (q - q_targets).square(), v_errors)
    info["critic/spread"] = per_seed_mean(spread_of(q.detach()))
    return critic.settings.members * (q_loss + v_loss).sum(), info
