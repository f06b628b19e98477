r"""The actor that CQL and EDAC train beside their Q networks and throw away, and the losses they share.

A tanh-Gaussian policy :math:`\pi` with automatic temperature :math:`\alpha_t` (Haarnoja et al. 2018, arXiv 1812.05905):

.. math::
   L_\pi &= \mathbb{E}_{s, a \sim \pi} \big[ \alpha_t \log \pi(a | s) - \min_i Q_i(s, a) \big] \qquad \text{(eq. 7)} \\
   y &= r + \gamma (1 - \mathrm{terminated}) \big( \min_i \bar Q_i(s', a') - [\alpha_t \log \pi(a' | s')] \big),
   \quad a' \sim \pi(s') \qquad \text{(eq. 5)} \\
   L_V &= \mathbb{E}_{s, a \sim \pi} \big( \min_i \bar Q_i(s, a) - V(s) \big)^2

The bracketed entropy is left out unless ``backup_entropy``. V, the value of the actor, is this project's addition:
with it the critic stands without its actor, which no policy here is built on. The temperature takes one plain
gradient step on eq. 18 per update, towards an entropy of minus the number of action dimensions.

Whatever could round differently beside other seeds (exponentials, sums) is done seed by seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from spar_core.critics.stacked import Problem, StackedCritic, q_values, v_values
from spar_core.critics.td import TDSettings
from spar_core.training.networks import MLPShape, Stack, per_seed_mean
from spar_core.training.optimiser import Adam
from spar_core.training.randomness import normal, streams

LOG_DEVIATIONS = (-5.0, 2.0)


class ActorCriticSettings(TDSettings):
    """Settings of every critic that is trained beside an actor."""

    backup_entropy: bool = Field(False, description="count the actor's entropy as reward")


class Actor:
    """Policies of S seeds, of the shape of the critic's networks, with their own optimiser and random streams."""

    def __init__(self, problem: Problem) -> None:
        settings, seeds, dataset = problem.settings, problem.seeds, problem.dataset
        self.action_size, self.learning_rate = dataset.action_size, settings.learning_rate
        shape = MLPShape(dataset.observation_size, settings.hidden, 2 * self.action_size, settings.layer_norm)
        self.network = Stack(shape, len(seeds), problem.device).initialise(streams(seeds, "critic/actor"))
        self.noise = streams(seeds, "critic/actor_noise")
        self.adam = Adam(settings.learning_rate, self.network)
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
        """One temperature a seed, [S, 1]."""
        return torch.tensor([[math.exp(log)] for log in self.log_temperature], device=device)

    def improve(self, critic: StackedCritic, observations: Tensor) -> dict[str, Tensor]:
        """One step of the policies up the smallest Q, and one of the temperatures."""
        loss, info = actor_loss(self, critic.networks, observations)
        self.adam.minimise(loss)
        excess = [entropy + self.action_size for entropy in info["critic/actor_entropy"].tolist()]
        self.log_temperature = [
            log - self.learning_rate * more for log, more in zip(self.log_temperature, excess, strict=True)
        ]
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


def actor_loss(actor: Actor, networks: Stack, observations: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The policies' loss at the observations [S, B, D]."""
    actions, log_probability = (drawn.squeeze(2) for drawn in actor.sample(observations))
    temperature = actor.temperature(observations.device)
    q = q_values(networks, observations, actions).min(dim=1).values
    info = {
        "critic/actor_entropy": -per_seed_mean(log_probability.detach()),
        "critic/actor_temperature": temperature.squeeze(1),
    }
    return per_seed_mean(temperature * log_probability - q).sum(), info


@torch.no_grad()
def actor_targets(actor: Actor, target: Stack, problem: Problem, steps: Tensor) -> tuple[Tensor, Tensor]:
    """Backups y of Q and targets of V at the steps [S, B]: both ask the target networks about the actor's actions."""
    data, settings = problem.data, problem.settings
    observations, next_observations = data.observations[data.index[steps]], data.observations[data.index[steps] + 1]
    next_actions, log_probability = (drawn.squeeze(2) for drawn in actor.sample(next_observations))
    next_value = q_values(target, next_observations, next_actions).min(dim=1).values
    if settings.backup_entropy:
        next_value = next_value - actor.temperature(next_value.device) * log_probability
    backup = problem.scale * data.rewards[steps] + settings.discount * data.alive[steps] * next_value
    actions = actor.sample(observations)[0].squeeze(2)
    return backup, q_values(target, observations, actions).min(dim=1).values


def squared_errors(
    critic: StackedCritic, q: Tensor, observations: Tensor, targets: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Mean squared errors [S] of the values ``q`` [S, M, B] and of V to their targets [S, B], and their curves."""
    v = v_values(critic.state_value, observations).squeeze(1)
    q_loss = per_seed_mean((q - targets[0].unsqueeze(1)).square())
    v_loss = per_seed_mean((v - targets[1]).square())
    info = {
        "critic/q_loss": q_loss.detach(),
        "critic/v_loss": v_loss.detach(),
        "critic/q_mean": per_seed_mean(q.detach()),
        "critic/v_mean": per_seed_mean(v.detach()),
    }
    return q_loss, v_loss, info
