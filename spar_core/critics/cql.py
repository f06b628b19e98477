r"""Conservative Q-learning (Kumar et al. 2020, arXiv 2006.04779), in its form CQL(H).

With twin networks :math:`Q_i` and the backup :math:`y` of a throw-away actor (:mod:`spar_core.critics.actor`):

.. math::
   L_Q = \sum_i \; \alpha \, \mathbb{E}_{(s, a) \sim D} \Big[ \log \int e^{Q_i(s, a')} \mathrm{d}a' - Q_i(s, a) \Big]
   + \tfrac12 \mathbb{E} \big( Q_i(s, a) - y \big)^2 \qquad \text{(eq. 4)}

The integral is estimated by importance sampling (appendix F): half of the actions uniform in the box, half the
actor's at s, each weighted by one over its density. Deviations: no actions drawn at s'; a fixed :math:`\alpha`, no
Lagrange multiplier; the warm start by observed returns, where the paper first clones behaviour into the actor; V,
regressed on :math:`\min_i \bar Q_i` of the actor's actions, so that the critic stands without its actor.

Rewards are scaled (``return_range``), so :math:`\alpha` means about the same on every task.
The conservative value is :math:`Q_c = \min_i Q_i`.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from spar_core.critics.actor import Actor, ActorCriticSettings, actor_targets, squared_errors
from spar_core.critics.stacked import Problem, q_values
from spar_core.critics.td import Objective, TDCritic
from spar_core.training.loop import Info
from spar_core.training.networks import Stack, per_seed_mean
from spar_core.training.randomness import streams


class CQLSettings(ActorCriticSettings):
    """Settings of conservative Q-learning."""

    alpha: float = Field(5.0, ge=0, description="weight of the penalty on actions outside the data")
    samples: PositiveInt = Field(
        4, description="uniform actions a state in the estimate of the integral, and as many of the actor's"
    )


class CQLCritic(TDCritic):
    """Twin Q networks and a V network, S seeds side by side."""

    Settings = CQLSettings
    conservatism = "values of actions outside the data pushed down, and the minimum of two networks"
    # The penalty lowers values on purpose, and backups pass the lower values on. Above, no more room is needed: a
    # logged action is lifted by at most alpha over its backup.
    room_below = 10.0
    settings: CQLSettings

    def objective(self, problem: Problem, target: Stack) -> Objective:
        actor = Actor(problem.context, self.settings)
        uniform = streams(problem.context.seeds, "critic/uniform_actions")

        def loss(steps: Tensor) -> tuple[Tensor, Info]:
            learnt = actor.improve(self, problem.at(steps)[0])
            total, info = cql_loss(self, target, actor, uniform, problem, steps)
            return total, {**info, **learnt}

        return Objective(loss, {"actor": actor, "uniform": uniform}, capture=False)


def cql_loss(
    critic: CQLCritic, target: Stack, actor: Actor, uniform: list[torch.Generator], problem: Problem, steps: Tensor
) -> tuple[Tensor, Info]:
    """Equation 4 and V's squared error at the steps [S, B]."""
    settings = critic.settings
    observations, actions, _ = problem.at(steps)
    q = q_values(critic.networks, observations, actions)
    targets = actor_targets(actor, target, problem, steps)
    q_loss, v_loss, info = squared_errors(critic, q, observations, targets)
    candidates, log_densities = mixed_actions(actor, uniform, observations, settings.samples)
    penalty = per_seed_mean(log_integral(critic.networks, observations, candidates, log_densities) - q)
    info["critic/penalty"] = penalty.detach()
    return (q.shape[1] * (settings.alpha * penalty + 0.5 * q_loss) + v_loss).sum(), info


@torch.no_grad()
def mixed_actions(
    actor: Actor, uniform: list[torch.Generator], observations: Tensor, samples: int
) -> tuple[Tensor, Tensor]:
    """Uniform actions, then the actor's, [S, B, 2 n, A], and the logarithms of their densities [S, B, 2 n]."""
    own, own_log = actor.sample(observations, samples)
    draws = [torch.rand(own.shape[1:], generator=generator) * 2 - 1 for generator in uniform]
    everywhere = torch.stack(draws).to(own.device)
    # The box [-1, 1]^A has volume 2^A.
    flat = torch.full_like(own_log, -own.shape[-1] * math.log(2))
    return torch.cat([everywhere, own], dim=2), torch.cat([flat, own_log], dim=2)


def log_integral(networks: Stack, observations: Tensor, actions: Tensor, log_densities: Tensor) -> Tensor:
    """log of the integral of exp Q_i over actions, [S, M, B], from the drawn actions [S, B, n, A]."""
    n = actions.shape[2]
    values = q_values(networks, observations.repeat_interleave(n, dim=1), actions.flatten(1, 2))
    weighted = values.unflatten(2, (-1, n)) - log_densities.unsqueeze(1)
    return torch.stack([row.logsumexp(-1) for row in weighted]) - math.log(n)
