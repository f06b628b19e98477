r"""The actor that CQL and EDAC train beside their Q networks and throw away, and the losses that they share.

A tanh-Gaussian policy :math:`\pi` with automatic temperature :math:`\alpha_t` (Haarnoja et al. 2018, arXiv 1812.05905):

.. math::
   L_\pi &= \mathbb{E}_{s, a \sim \pi} \big[ \alpha_t \log \pi(a | s) - \min_i Q_i(s, a) \big] \qquad \text{(eq. 7)} \\
   y &= r + \gamma (1 - \mathrm{terminated}) \big( \min_i \bar Q_i(s', a') - [\alpha_t \log \pi(a' | s')] \big),
   \quad a' \sim \pi(s') \qquad \text{(eq. 5)} \\
   L_V &= \mathbb{E}_{s, a \sim \pi} \big( \min_i \bar Q_i(s, a) - V(s) \big)^2

The bracketed entropy is left out unless ``backup_entropy``. V, the value of the actor, is this project's addition:
with it the critic stands without its actor, on which no policy here is built. The temperature takes one plain
gradient step on eq. 18 per update, towards an entropy of minus the number of action dimensions.

Exponentials and sums are computed seed by seed, because they could round differently beside other seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeInt
from torch import Tensor

from spar_core.critics.stacked import Problem, StackedCritic, smallest_q, v_values
from spar_core.critics.td import TDSettings, mean_errors
from spar_core.training.context import Context
from spar_core.training.loop import Info
from spar_core.training.networks import MLPShape, Stack, per_seed_mean
from spar_core.training.randomness import normal, streams

# Bounds of the logarithm of the policy's standard deviation.
LOG_DEVIATIONS = (-5.0, 2.0)


class ActorCriticSettings(TDSettings):
    """Settings of every critic that trains an actor beside itself."""

    steps: NonNegativeInt = Field(
        5000, description="steps of temporal differences, each several times as dear as one of iql"
    )
    backup_entropy: bool = Field(False, description="whether the actor's entropy counts as reward")


class Actor:
    """Policies of S seeds, of the shape of the critic's networks, with their own optimiser and random streams."""

    def __init__(self, context: Context, settings: ActorCriticSettings) -> None:
        self.settings, self.action_size = settings, context.dataset.action_size
        inputs, seeds = context.dataset.observation_size, context.seeds
        shape = MLPShape(inputs, settings.hidden, 2 * self.action_size, settings.layer_norm)
        self.network = Stack(shape, len(seeds), context.device).initialise(streams(seeds, "critic/actor"))
        self.noise = streams(seeds, "critic/actor_noise")
        self.adam = settings.adam(self.network)
        self.log_temperature = [0.0] * len(seeds)

    def state_dict(self) -> dict[str, Tensor]:
        temperatures = torch.tensor(self.log_temperature, dtype=torch.float64)
        return {"log_temperature": temperatures, **self.adam.state_dict(), **self.noise.state_dict()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.log_temperature = state["log_temperature"].tolist()
        self.adam.load_state_dict(state)
        self.noise.load_state_dict(state)

    def sample(self, observations: Tensor, draws: int = 1) -> tuple[Tensor, Tensor]:
        """Actions [S, B, n, A] at the observations [S, B, D], and their log-probabilities [S, B, n]."""
        noise = normal(self.noise, observations.shape[1], draws, self.action_size).to(observations.device)
        pairs = [tanh_gaussian(row, some) for row, some in zip(self.network(observations), noise, strict=True)]
        return torch.stack([actions for actions, _ in pairs]), torch.stack([log for _, log in pairs])

    def temperature(self, device: torch.device) -> Tensor:
        """The temperature of each seed, [S, 1]."""
        return torch.tensor([[math.exp(log)] for log in self.log_temperature], device=device)

    def improve(self, critic: StackedCritic, observations: Tensor) -> Info:
        """Take one step of the policies up the smallest Q, and one of the temperatures."""
        loss, info = actor_loss(self, critic.networks, observations)
        self.adam.minimise(loss)
        excess = [entropy + self.action_size for entropy in info["critic/actor_entropy"].tolist()]
        rate = self.settings.learning_rate
        self.log_temperature = [log - rate * more for log, more in zip(self.log_temperature, excess, strict=True)]
        return info


def tanh_gaussian(outputs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Squashed actions [B, n, A] and log-probabilities [B, n] of network outputs [B, 2 A] and noise [B, n, A]."""
    mean, log_deviation = outputs.unsqueeze(1).chunk(2, dim=-1)
    log_deviation = log_deviation.clamp(*LOG_DEVIATIONS)
    unsquashed = mean + log_deviation.exp() * noise
    gaussian = -0.5 * noise.square() - log_deviation - 0.5 * math.log(2 * math.pi)
    # log(1 - tanh(u)^2), in the form that stays finite where tanh(u) rounds to 1.
    shrinkage = 2 * (math.log(2) - unsquashed - F.softplus(-2 * unsquashed))
    return unsquashed.tanh(), (gaussian - shrinkage).sum(-1)


def actor_loss(actor: Actor, networks: Stack, observations: Tensor) -> tuple[Tensor, Info]:
    """Equation 7 at the observations [S, B, D]."""
    actions, log_probability = (drawn.squeeze(2) for drawn in actor.sample(observations))
    temperature = actor.temperature(observations.device)
    q = smallest_q(networks, observations, actions).squeeze(1)
    info = {
        "critic/actor_entropy": -per_seed_mean(log_probability.detach()),
        "critic/actor_temperature": temperature.squeeze(1),
    }
    return per_seed_mean(temperature * log_probability - q).sum(), info


@torch.no_grad()
def actor_targets(actor: Actor, target: Stack, problem: Problem, steps: Tensor) -> tuple[Tensor, Tensor]:
    """Targets of Q (equation 5) and targets of V, both [S, 1, B], at the steps [S, B].

    Both are the target networks' values of actions that the actor draws.
    """
    observations, _, next_observations = problem.at(steps)
    next_actions, log_probability = (drawn.squeeze(2) for drawn in actor.sample(next_observations))
    next_values = smallest_q(target, next_observations, next_actions)
    if actor.settings.backup_entropy:
        next_values = next_values - (actor.temperature(next_values.device) * log_probability).unsqueeze(1)
    actions = actor.sample(observations)[0].squeeze(2)
    return problem.backups(steps, next_values), smallest_q(target, observations, actions)


def squared_errors(
    critic: StackedCritic, q: Tensor, observations: Tensor, targets: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Info]:
    """Mean squared errors [S] of the values ``q`` [S, M, B] and of V to their targets, and values for the curve."""
    v = v_values(critic.state_value, observations)
    return mean_errors(q, v, (q - targets[0]).square(), (v - targets[1]).square())
