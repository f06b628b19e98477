"""A critic made of Q networks and V networks: its settings, its values, its tensors, and what it is fitted to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from pydantic import Field, NonNegativeInt
from torch import Tensor

from spar_core.critics.base import Critic, mean_of, reward_scale, spread_of
from spar_core.critics.calibration import calibrate, uncertainty_levels
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted
from spar_core.training.networks import MLPShape, Stack
from spar_core.training.optimiser import OptimiserSettings
from spar_core.training.randomness import streams


class StackedSettings(OptimiserSettings):
    """Settings of every critic that is made of networks."""

    steps: NonNegativeInt = Field(10_000, description="optimiser steps")
    learning_rate: float = Field(3e-4, gt=0, description="learning rate of Adam")
    layer_norm: bool = Field(True, description="layer norm before each activation")
    discount: float = Field(0.99, ge=0, lt=1, description="gamma, per environment step")
    return_range: float = Field(
        1000.0, gt=0, description="rewards are scaled so that the returns of episodes span this much"
    )


@dataclass(frozen=True)
class Problem:
    """What a critic is fitted to: logged data with scaled rewards, for S seeds.

    Attributes:
        context: data, seeds, reporter and device.
        settings: those of the critic.
        scale: factor of the rewards (:func:`~spar_core.critics.base.reward_scale`).
    """

    context: Context
    settings: StackedSettings
    scale: float

    @classmethod
    def of(cls, context: Context, settings: StackedSettings) -> Problem:
        return cls(context, settings, reward_scale(context.dataset, settings.return_range))

    def at(self, steps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Observations [S, B, D], actions [S, B, A] and next observations [S, B, D] of the steps [S, B]."""
        data = self.context.data
        return *data.at(steps), data.observations[data.index[steps] + 1]

    def backups(self, steps: Tensor, next_values: Tensor) -> Tensor:
        """Targets ``r + gamma (1 - terminated) next_values`` [S, M, B] of the steps [S, B].

        Rewards are scaled. Bootstrapping goes through truncations, and ends at terminations and the data's ``stops``.
        """
        data = self.context.data
        rewards, alive = self.scale * data.rewards[steps].unsqueeze(1), data.alive[steps].unsqueeze(1)
        return rewards + self.settings.discount * alive * next_values


class StackedCritic(Critic):
    """Q networks and V networks of S seeds, side by side. By default: twin Q, one V, and Q_c the smaller Q."""

    conservatism = "minimum of two networks"
    # Prefix of the Q networks in saved tensors.
    stack_name: ClassVar[str] = "twins"
    settings: StackedSettings

    def __init__(self, networks: Stack, state_value: Stack, settings: Any) -> None:
        self.networks, self.state_value, self.settings = networks, state_value, settings

    @classmethod
    def counts(cls, settings: Any) -> tuple[int, int]:
        """Numbers of Q networks and of V networks of one seed."""
        return 2, 1

    # --- values ---

    def conservative_q(self, observations: Tensor, actions: Tensor) -> Tensor:
        return smallest_q(self.networks, observations, actions).squeeze(1)

    @torch.no_grad()
    def members(self, observations: Tensor, actions: Tensor) -> Tensor:
        return q_values(self.networks, observations, actions)

    @torch.no_grad()
    def uncertainty(self, observations: Tensor, actions: Tensor) -> Tensor:
        return spread_of(q_values(self.networks, observations, actions))

    @torch.no_grad()
    def v(self, observations: Tensor) -> Tensor:
        return mean_of(v_values(self.state_value, observations))

    # --- making, saving, restoring ---

    @classmethod
    def fresh(cls, problem: Problem) -> Self:
        """The critic before its first step."""
        context, settings = problem.context, problem.settings
        seeds, dataset, device = context.seeds, context.dataset, context.device
        o, a, (q, v) = dataset.observation_size, dataset.action_size, cls.counts(settings)
        networks = Stack(MLPShape(o + a, settings.hidden, 1, settings.layer_norm), q * len(seeds), device)
        state_value = Stack(MLPShape(o, settings.hidden, 1, settings.layer_norm), v * len(seeds), device)
        networks.initialise(streams(seeds, f"critic/{cls.stack_name}"))
        state_value.initialise(streams(seeds, "critic/state_value"))
        return cls(networks, state_value, settings)

    def finish(self, problem: Problem) -> Fitted:
        """Tensors, final metrics and curves."""
        context, n = problem.context, len(problem.context.seeds)
        metrics = calibrate(self, context, problem.settings.discount, problem.scale)
        metrics.update(uncertainty_levels(self, context))
        metrics["critic/reward_scale"] = [problem.scale] * n
        tensors = {**self.networks.state(self.stack_name, n), **self.state_value.state("state_value", n)}
        return Fitted(tensors, metrics, context.report.rows)

    @classmethod
    def restore(cls, settings: StackedSettings, tensors: Mapping[str, Tensor], device: str = "cpu") -> Self:
        def stack(name: str) -> Stack:
            inputs = tensors[f"{name}.0.weight"].shape[-2]
            return Stack.restore(MLPShape(inputs, settings.hidden, 1, settings.layer_norm), tensors, name, device)

        return cls(stack(cls.stack_name), stack("state_value"), settings)


def q_values(networks: Stack, observations: Tensor, actions: Tensor) -> Tensor:
    """Values [S, M, B] of all Q networks of each seed at observations [S, B, D] and actions [S, B, A]."""
    return v_values(networks, torch.cat([observations, actions], dim=-1))


def smallest_q(networks: Stack, observations: Tensor, actions: Tensor) -> Tensor:
    """Smallest value of the Q networks of each seed, [S, 1, B]."""
    return q_values(networks, observations, actions).min(dim=1, keepdim=True).values


def v_values(networks: Stack, inputs: Tensor) -> Tensor:
    """Outputs [S, M, B] of all networks of each seed at that seed's inputs [S, B, D]."""
    n, batch = inputs.shape[:2]
    each = networks.n // n
    # A stack of copies rather than an expansion: gradients of the copies are then added one by one (see mean_of).
    copies = torch.stack([inputs] * each, dim=1).flatten(0, 1)
    return networks(copies).squeeze(-1).view(n, each, batch)
