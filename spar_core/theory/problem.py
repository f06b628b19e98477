r"""Bandits and short chains whose action data lie on a manifold, with an anchor, a critic and V in closed form.

An episode has H steps (H = 1 is a bandit). The state of step h is a number :math:`s_h \in [-1, 1]`, and no action
changes the next one. The anchor acts :math:`a_b(s) = x(t_0(s))` on the manifold, the data

.. math:: a = x\big(t_0(s) + \delta + w \, \epsilon\big), \qquad \epsilon \sim \mathcal{N}(0, I), \; |\epsilon_i| \le 2

lie around that point, and the value of an action, followed by actions of the anchor, is

.. math:: Q(s, a) = q_0 + (g_t T(s) + g_n N(s))^\top (a - a_b(s)), \qquad V(s) = q_0

with a unit tangent T and the unit normal N at the anchor's action. So the value's gradient has the normal part
:math:`g_n` everywhere, off the manifold too: the simplest critic that prefers to leave the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spar_core.anchors.base import Anchor
from spar_core.critics.base import Critic
from spar_core.data.dataset import Dataset
from spar_core.data.scaler import Scaler
from spar_core.theory.manifolds import Manifold
from spar_core.theory.settings import ProblemSettings
from spar_core.training.fitted import Fitted
from spar_core.training.randomness import stream

# Draws along the manifold are clipped at this many standard deviations.
REACH = 2.0


@dataclass(frozen=True)
class Problem:
    """A manifold with states, anchor and values on it.

    Attributes:
        manifold: where actions lie.
        settings: sizes and values.
        horizon: H, steps of an episode.
        shift: delta, distance along the manifold of the data's centre from the anchor's action.
        dtype: floating type of anchor and values. Training needs float32.
    """

    manifold: Manifold
    settings: ProblemSettings
    horizon: int = 1
    shift: float = 0.0
    dtype: torch.dtype = torch.float32

    @property
    def states(self) -> Tensor:
        """The state of each step of an episode, [H, 1]."""
        even = torch.linspace(-1, 1, self.horizon) if self.horizon > 1 else torch.zeros(1)
        return even.unsqueeze(-1)

    def at(self, observations: Tensor, shift: float = 0.0) -> Tensor:
        """Coordinates [..., C] of the anchor's action, with ``shift`` added to the first coordinate."""
        t = observations.new_zeros(*observations.shape[:-1], self.manifold.coordinates, dtype=self.dtype)
        t[..., 0] = self.settings.reach * observations[..., 0].to(self.dtype) + shift
        if self.manifold.coordinates > self.manifold.dim:
            t[..., -1] = -1.0
        return t

    def centre(self, observations: Tensor) -> Tensor:
        """Coordinates [..., C] of the data's centre; of two arcs, on the arc of the anchor."""
        return self.at(observations, self.shift)

    def gradient(self, observations: Tensor) -> Tensor:
        """Gradient of Q in the action, [..., A]."""
        t = self.at(observations)
        along = self.manifold.tangents(t)[..., 0]
        return self.settings.value_tangent * along + self.settings.value_normal * self.manifold.normal(t)

    def dataset(self, seed: int = 0) -> Dataset:
        """Episodes of the data, all for training. Every seed of a rule gets the same data, drawn from ``seed``."""
        h, n = self.horizon, self.settings.data_steps
        episodes = n // h
        rng = stream(seed, "theory/data")
        states = self.states.repeat(episodes, 1)
        t = self.centre(states).double()
        m = self.manifold.dim
        draws = torch.randn(len(states), m, generator=rng).double().clamp(-REACH, REACH)
        t[..., :m] += self.settings.spread * draws
        if self.manifold.coordinates > m:
            t[..., -1] = 1.0 - 2.0 * torch.randint(2, (len(states),), generator=rng)
        actions = self.manifold.point(t)
        noise = torch.randn(actions.shape, generator=rng).double()
        logged = (actions + self.settings.noise * noise).numpy().astype(np.float32)
        rows = torch.cat([self.states, self.states[-1:]]).repeat(episodes, 1).numpy()
        a = self.manifold.ambient
        scaler = Scaler(np.zeros(1, np.float32), np.ones(1, np.float32), *(np.full(a, b, np.float32) for b in (-1, 1)))
        ends = np.ones(episodes, bool)
        return Dataset(
            rows.astype(np.float32),
            logged,
            np.zeros(len(logged), np.float32),
            np.full(episodes, h, np.int64),
            ends,
            ~ends,
            scaler,
        )


class OnManifold(Anchor):
    """The anchor of a problem: a known function of the state, on the manifold."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    @classmethod
    def clone(cls, *args: Any) -> Fitted:
        raise NotImplementedError("known in closed form")

    @classmethod
    def restore(cls, *args: Any) -> OnManifold:
        raise NotImplementedError("known in closed form")

    def act(self, observations: Tensor) -> Tensor:
        return self.problem.manifold.point(self.problem.at(observations))


class LinearCritic(Critic):
    """The known values of a problem."""

    conservatism = "none: the values are the true ones"

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    @classmethod
    def fit(cls, *args: Any) -> Fitted:
        raise NotImplementedError("known in closed form")

    @classmethod
    def restore(cls, *args: Any) -> LinearCritic:
        raise NotImplementedError("known in closed form")

    def conservative_q(self, observations: Tensor, actions: Tensor) -> Tensor:
        value = torch.full_like(actions[..., 0], self.problem.settings.value_offset)
        away = actions - self.problem.manifold.point(self.problem.at(observations))
        slope = self.problem.gradient(observations)
        for i in range(actions.shape[-1]):
            value = value + slope[..., i] * away[..., i]
        return value

    def uncertainty(self, observations: Tensor, actions: Tensor) -> Tensor:
        return torch.zeros_like(actions[..., 0])

    def v(self, observations: Tensor) -> Tensor:
        return torch.full_like(observations[..., 0], self.problem.settings.value_offset)


def states_of(problem: Problem, seeds: Sequence[int]) -> Tensor:
    """The states of a problem, repeated for each seed, [S, H, 1]."""
    return problem.states.expand(len(seeds), -1, -1).contiguous()
