r"""Ensemble-diversified actor critic (An et al. 2021, arXiv 2110.01548).

With N networks :math:`Q_i`, whose smallest value the throw-away actor (:mod:`spar_core.critics.actor`) and the
backup :math:`y` use:

.. math::
   L_Q = \mathbb{E} \sum_i \big( Q_i(s, a) - y \big)^2 + \frac{\eta}{N - 1} \mathbb{E} \sum_{i \neq j}
   \Big\langle \frac{\nabla_a Q_i(s, a)}{\lVert \nabla_a Q_i(s, a) \rVert},
   \frac{\nabla_a Q_j(s, a)}{\lVert \nabla_a Q_j(s, a) \rVert} \Big\rangle \qquad \text{(section 4)}

Networks whose gradients agree have nearly the same values off the data too, and then their minimum is not conservative.
The second term pulls the gradients apart. Deviations: fewer networks than the paper's 10 to 50; no entropy in the
backup unless asked for; the warm start by observed returns; layer norm; and V, regressed on :math:`\min_i \bar Q_i` of
the actor's actions, so that the critic stands without its actor.

The conservative value is :math:`Q_c = \min_i Q_i` over all N.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from spar_core.critics.actor import Actor, ActorCriticSettings, actor_targets, squared_errors
from spar_core.critics.stacked import Problem
from spar_core.critics.td import Objective, TDCritic
from spar_core.training.loop import Info
from spar_core.training.networks import Stack

# Added to the square of a gradient's norm, so that a gradient of zero has a direction of zero.
SMALL = 1e-12


class EDACSettings(ActorCriticSettings):
    """Settings of the ensemble-diversified actor critic."""

    members: int = Field(5, ge=2, description="Q networks")
    eta: float = Field(1.0, ge=0, description="weight of the diversity of the networks' gradients")


class EDACCritic(TDCritic):
    """N Q networks and a V network, S seeds side by side."""

    Settings = EDACSettings
    conservatism = "minimum of several networks with diverse gradients"
    stack_name = "members"
    # The minimum over networks that disagree on purpose lowers values, and backups pass the lower values on.
    room_below = 10.0
    settings: EDACSettings

    @classmethod
    def counts(cls, settings: EDACSettings) -> tuple[int, int]:
        return settings.members, 1

    def objective(self, problem: Problem, target: Stack) -> Objective:
        actor = Actor(problem.context, self.settings)

        def loss(steps: Tensor) -> tuple[Tensor, Info]:
            learnt = actor.improve(self, problem.at(steps)[0])
            total, info = edac_loss(self, target, actor, problem, steps)
            return total, {**info, **learnt}

        return Objective(loss, {"actor": actor}, capture=False)


def edac_loss(critic: EDACCritic, target: Stack, actor: Actor, problem: Problem, steps: Tensor) -> tuple[Tensor, Info]:
    """The objective of Q and V's squared error at the steps [S, B]."""
    observations, actions, _ = problem.at(steps)
    q, gradients = values_and_gradients(critic.networks, observations, actions)
    targets = actor_targets(actor, target, problem, steps)
    q_loss, v_loss, info = squared_errors(critic, q, observations, targets)
    similarity = gradient_similarity(gradients)
    info["critic/gradient_similarity"] = similarity.detach()
    # The similarity is a mean over N (N - 1) ordered pairs: N times it is their sum over N - 1.
    return (q.shape[1] * (q_loss + critic.settings.eta * similarity) + v_loss).sum(), info


def values_and_gradients(networks: Stack, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Values of every network [S, N, B] and their gradients in the action [S, N, B, A], both differentiable."""
    n, batch, size = actions.shape
    each = networks.n // n
    inputs = torch.cat([observations, actions], dim=-1)
    copies = torch.stack([inputs] * each, dim=1).flatten(0, 1).requires_grad_()
    values = networks(copies).squeeze(-1)
    (gradients,) = torch.autograd.grad(values.sum(), copies, create_graph=True)
    return values.view(n, each, batch), gradients[..., -size:].view(n, each, batch, size)


def gradient_similarity(gradients: Tensor) -> Tensor:
    """Mean cosine of two different networks' gradients [S, N, B, A], [S]."""
    return torch.stack([_similarity(row) for row in gradients])


def _similarity(gradients: Tensor) -> Tensor:
    """Mean cosine of one seed, of gradients [N, B, A]."""
    n = len(gradients)
    unit = gradients / (gradients.square().sum(-1, keepdim=True) + SMALL).sqrt()
    # The square of a sum of unit vectors holds the product of every pair.
    pairs = unit.sum(0).square().sum(-1) - unit.square().sum((0, -1))
    return (pairs / (n * (n - 1))).mean()
