"""A critic made of Q networks and V networks: its values, its tensors, and the problem that it is fitted to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor

from spar_core.critics.base import Critic, mean_of, reward_scale, spread_of
from spar_core.critics.calibration import calibrate, uncertainty_levels
from spar_core.data.dataset import Dataset
from spar_core.data.device import DeviceData
from spar_core.settings import Settings
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted
from spar_core.training.networks import MLPShape, Stack
from spar_core.training.optimiser import OptimiserSettings
from spar_core.training.randomness import streams


class StackedSettings(OptimiserSettings):
    """Settings of every critic that is made of networks."""

    steps: int = Field(10_000, ge=0, description="optimiser steps")
    learning_rate: float = Field(3e-4, gt=0, description="learning rate of Adam")
    layer_norm: bool = Field(True, description="layer norm before each activation")
    discount: float = Field(0.99, ge=0, lt=1, description="gamma, per environment step")
    return_range: float = Field(1000.0, gt=0, description="rewards are scaled so that episode returns span this much")


@dataclass(frozen=True)
class Problem:
    """What a critic is fitted to: a context whose rewards are multiplied by ``scale``."""

    context: Context
    settings: Any
    scale: float

    @classmethod
    def of(cls, context: Context, settings: StackedSettings) -> Problem:
        """The problem of a context, with the scale that the settings ask for."""
        return cls(context, settings, reward_scale(context.dataset, settings.return_range))

    @property
    def dataset(self) -> Dataset:
        return self.context.dataset

    @property
    def data(self) -> DeviceData:
        return self.context.data

    @property
    def seeds(self) -> Sequence[int]:
        return self.context.seeds

    @property
    def device(self) -> str:
        return self.context.device


class StackedCritic(Critic):
    """Q networks and V networks of S seeds. By default a seed has twin Q and one V; Q_c is the smaller Q."""

    Settings: ClassVar[type[Settings]] = StackedSettings
    conservatism = "minimum of two networks"
    # Name of the Q networks in saved tensors.
    stack_name: ClassVar[str] = "twins"

    def __init__(self, networks: Stack, state_value: Stack, settings: Any) -> None:
        self.networks, self.state_value, self.settings = networks, state_value, settings

    @classmethod
    def counts(cls, settings: Any) -> tuple[int, int]:
        """Numbers of Q networks and of V networks of a seed."""
        return 2, 1

    # --- values ---

    def conservative_q(self, observations: Tensor, actions: Tensor) -> Tensor:
        return q_values(self.networks, observations, actions).min(dim=1).values

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
        settings, seeds, dataset = problem.settings, problem.seeds, problem.dataset
        o, a, (q, v) = dataset.observation_size, dataset.action_size, cls.counts(settings)
        networks = Stack(MLPShape(o + a, settings.hidden, 1, settings.layer_norm), q * len(seeds), problem.device)
        state_value = Stack(MLPShape(o, settings.hidden, 1, settings.layer_norm), v * len(seeds), problem.device)
        networks.initialise(streams(seeds, f"critic/{cls.stack_name}"))
        state_value.initialise(streams(seeds, "critic/state_value"))
        return cls(networks, state_value, settings)

    def finish(self, problem: Problem) -> Fitted:
        """Tensors and final metrics."""
        n = len(problem.seeds)
        metrics = calibrate(self, problem.context, problem.settings.discount, problem.scale)
        metrics.update(uncertainty_levels(self, problem.context))
        metrics["critic/reward_scale"] = [problem.scale] * n
        tensors = {**self.networks.state(self.stack_name, n), **self.state_value.state("state_value", n)}
        return Fitted(tensors, metrics, problem.context.report.rows)

    @classmethod
    def restore(cls, settings: Any, tensors: Mapping[str, Tensor], device: str = "cpu") -> Self:
        def stack(name: str) -> Stack:
            inputs = tensors[f"{name}.0.weight"].shape[-2]
            return Stack.restore(MLPShape(inputs, settings.hidden, 1, settings.layer_norm), tensors, name, device)

        return cls(stack(cls.stack_name), stack("state_value"), settings)


def q_values(networks: Stack, observations: Tensor, actions: Tensor) -> Tensor:
    """Values of every Q network, [S, M, B]."""
    return v_values(networks, torch.cat([observations, actions], dim=-1))


def v_values(networks: Stack, inputs: Tensor) -> Tensor:
    """Outputs of every network of each seed at the inputs [S, B, D] of that seed: [S, M, B]."""
    n, batch = inputs.shape[:2]
    each = networks.n // n
    # A stack of copies, not an expansion: gradients of the copies are then added one by one (see mean_of).
    copies = torch.stack([inputs] * each, dim=1).flatten(0, 1)
    return networks(copies).squeeze(-1).view(n, each, batch)
