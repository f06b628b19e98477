r"""Fitted-Q evaluation: what a frozen policy's return would be, estimated from logged data alone.

For the policy :math:`\pi`, one network :math:`Q` and its slowly following copy :math:`\bar Q`:

.. math::
   L_Q = \mathbb{E} \big( r + \gamma (1 - \mathrm{terminated}) \,
         \mathrm{clip}(\bar Q(s', \pi(s')), b_-, b_+) - Q(s, a) \big)^2, \qquad
   \hat J(\pi) = \frac{1}{|H|} \sum_{s_0 \in H} Q(s_0, \pi(s_0))

over steps of the training episodes; :math:`H` holds the first observations of the held-out episodes. The bounds
:math:`b_\pm` are the discounted sums of the smallest and the largest logged reward.

Source: Le, Voloshin and Yue 2019 ("Batch policy learning under constraints", arXiv 1903.08738), with networks and a
target copy as in Paine et al. 2020 ("Hyperparameter selection for offline RL", arXiv 2007.09055). Deviations: the
bounds, the warm start by observed returns (:mod:`spar_core.critics.warm_start`) from their mean, and the target copy
that follows at every step, where the first source solves one regression after the other.

Limits: where the policy acts as no logged action did, Q extrapolates, most often upwards, and nothing here can
tell. The estimate is a discounted one, from where episodes began, and its spread over seeds is that of the policies
and of Q's initial weights, not that of the data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from spar_core.critics.stacked import Problem, StackedSettings, q_values
from spar_core.critics.td import Objective, TDCritic, TDSettings
from spar_core.critics.warm_start import warm_start
from spar_core.data.dataset import Dataset
from spar_core.data.returns import discounted_returns
from spar_core.data.reward_shift import REWARD_SHIFTS
from spar_core.training.context import Context
from spar_core.training.networks import CHUNK, Stack, per_seed_mean
from spar_core.training.reporter import Nested

# Standardised observations [B, D] to actions [B, A] in [-1, 1], of one seed's policy.
Act = Callable[[Tensor], Tensor]
# The same of all seeds at once: to actions [S, B, A].
ActOfSeeds = Callable[[Tensor], Tensor]


class FQESettings(TDSettings):
    """The part ``fqe`` of the ``estimation`` section of ``params.yaml``."""

    # Half the critics' width takes a quarter of the time, and a study estimates every rule.
    hidden: tuple[PositiveInt, ...] = Field((128, 128), description="width of each hidden layer")
    # An error of the copy falls by the factor exp(-(1 - discount) * target_rate * steps), here e^-5. The critics' rate
    # of 0.005 would leave most of the behaviour's value in it after as many steps.
    target_rate: float = Field(0.05, gt=0, le=1, description="how fast the target network follows, per step")
    # Far below the critics' 1000. A network that starts near zero and moves by the learning rate does not reach values
    # of some thousand, and the missing part would look like a worse policy.
    return_range: float = Field(10.0, gt=0, description="rewards are scaled so that episode returns span this much")


@dataclass(frozen=True)
class Estimates:
    """One value a seed [S]: discounted return in the units of ``Dataset.rewards``, and the share of the last
    minibatch whose next value was clipped. Well above 0 means that Q ran away where the policy leaves the data, or
    that the policy really earns the largest (or smallest) logged reward at nearly every step. ``at_starts`` [S, H]
    holds what the value is the mean of, one estimate a held-out episode."""

    values: list[float]
    clipped: list[float]
    at_starts: list[list[float]]


class PolicyValue(TDCritic):
    """The Q network of each seed's policy; a V network serves the warm start alone. ``objective`` needs
    :meth:`follow` first."""

    Settings = FQESettings
    conservatism = "none: an estimate, not a bound"
    stack_name = "fqe"

    @classmethod
    def counts(cls, settings: StackedSettings) -> tuple[int, int]:
        return 1, 1

    def follow(self, next_actions: Tensor) -> None:
        """Set the policy's actions [S, N, A] at the observation after each step."""
        self.next_actions = next_actions

    def objective(self, problem: Problem, target: Stack) -> Objective:
        bounds = value_bounds(problem)

        def loss(steps: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            return fqe_loss(self, target, problem, steps, bounds)

        return Objective(loss)

    def warm(self, problem: Problem) -> None:
        """Regress on observed returns. The regression knows no policy yet, so one serves all policies of a seed."""
        self._start_at(problem.scale * _mean_value(problem))
        adam = self.settings.adam(self.networks, self.state_value)
        warm_start(self, problem, self.settings.warm_start_steps, adam)

    def copy(self) -> PolicyValue:
        """A copy of the networks."""
        return PolicyValue(self.networks.copy(), self.state_value.copy(), self.settings)

    def _start_at(self, value: float) -> None:
        """Add a scaled value to the first answers of every network.

        Rewards that are all far from zero give values far from zero, and the optimiser's steps are needed for the
        differences between values.
        """
        for stack in (self.networks, self.state_value):
            stack.parameters[f"{len(stack.shape.hidden)}.bias"] += value


def _mean_value(problem: Problem) -> float:
    """Mean discounted return of the training steps, cut episodes continued by the mean reward."""
    dataset, discount, train = problem.dataset, problem.settings.discount, problem.dataset.train_steps
    tails = np.full(len(dataset.lengths), dataset.rewards[train].mean(dtype=np.float64) / (1.0 - discount))
    return float(discounted_returns(dataset, discount, tails)[train].mean(dtype=np.float64))


def fqe_loss(
    critic: PolicyValue, target: Stack, problem: Problem, steps: Tensor, bounds: tuple[float, float]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Squared error at the steps [S, B], with the policy's next actions and scaled ``bounds``."""
    data, next_actions = problem.data, critic.next_actions
    observations, actions = data.at(steps)
    with torch.no_grad():
        rows = torch.arange(len(steps), device=steps.device).unsqueeze(1)
        following = q_values(target, data.observations[data.index[steps] + 1], next_actions[rows, steps]).squeeze(1)
        bounded = following.clamp(*bounds)
        alive = data.alive[steps]
        backup = problem.scale * data.rewards[steps] + problem.settings.discount * alive * bounded
    q = q_values(critic.networks, observations, actions).squeeze(1)
    error = per_seed_mean((q - backup).square())
    info = {
        "fqe/q_loss": error.detach(),
        "critic/q_mean": per_seed_mean(q.detach()),
        "fqe/clipped_share": per_seed_mean(alive * (bounded != following).float()),
    }
    return error.sum(), info


def value_bounds(problem: Problem) -> tuple[float, float]:
    """Scaled values that no policy exceeds whose rewards lie within those of the training episodes."""
    rewards = problem.scale * problem.dataset.rewards[problem.dataset.train_steps].astype(np.float64)
    horizon = 1.0 / (1.0 - problem.settings.discount)
    low, high = float(rewards.min()), float(rewards.max())
    # An episode may also end after one step.
    return min(low, low * horizon), max(high, high * horizon)


def evaluate_policies(context: Context, acts: Sequence[Act], settings: FQESettings) -> Estimates:
    """Estimate the discounted return of one frozen policy a seed, from the starts of the held-out episodes.

    Args:
        context: Q is fitted to its training episodes; each seed has its own network and minibatches.
        acts: the policy of each seed.
        settings: of the fit.

    Raises:
        SparError: the fit diverged.
    """

    def act(observations: Tensor) -> Tensor:
        return torch.stack([of_seed(observations) for of_seed in acts])

    return next(evaluate_in_turn(context, [act], settings))


def evaluate_in_turn(context: Context, policies: Iterable[ActOfSeeds], settings: FQESettings) -> Iterator[Estimates]:
    """Estimate several policies of the same seeds, one after the other, with one warm start for all of them.

    Each policy's fit goes on from the warm start with the same minibatches. So an estimate does not depend on the
    policies before it, and differences between policies of a seed are paired. Arguments and errors are those of
    :func:`evaluate_policies`.
    """
    dataset = context.dataset
    problem = Problem.of(context, settings)
    starts = start_observations(dataset, context.device)
    warmed = PolicyValue.fresh(problem)
    warmed.warm(problem)
    for number, act in enumerate(policies):
        first_actions = in_chunks(act, starts)
        critic = warmed.copy()
        critic.follow(_next_actions(act, dataset, problem))
        inner = Nested(context.report, f"policy-{number}")
        critic.learn(replace(problem, context=replace(context, report=inner)), settings.adam(critic.networks))
        with torch.no_grad():
            q = q_values(critic.networks, starts.expand(len(context.seeds), -1, -1), first_actions).squeeze(1)
        values = (per_seed_mean(q) / problem.scale).tolist()
        yield Estimates(values, inner.last("fqe/clipped_share", 0.0), (q / problem.scale).tolist())


def start_observations(dataset: Dataset, device: str = "cpu") -> Tensor:
    """First observations of the held-out episodes, standardised, [H, D]."""
    rows = dataset.observation_index[dataset.starts[dataset.heldout]]
    return torch.as_tensor(dataset.observations[rows]).to(device)


def in_logged_units(value: float, shift: str, discount: float, ends: bool) -> float | None:
    """A discounted return of shifted rewards as one of logged rewards; None where there is no such map.

    Args:
        value: discounted sum of ``scale * reward + shift``.
        shift: a name in :data:`spar_core.data.reward_shift.REWARD_SHIFTS`.
        discount: gamma of the sum.
        ends: whether episodes terminate. Then what was added depends on when, which the sum does not tell.
    """
    scale, added = REWARD_SHIFTS[shift]
    if ends and added != 0.0:
        return None
    return (value - added / (1.0 - discount)) / scale


@torch.no_grad()
def _next_actions(act: ActOfSeeds, dataset: Dataset, problem: Problem) -> Tensor:
    """The policies' actions [S, N, A] at what follows each training step; zero elsewhere, which no one asks for."""
    data = problem.data
    actions = data.actions.new_zeros(len(problem.seeds), *data.actions.shape)
    steps = torch.as_tensor(dataset.bootstrap_steps).to(data.index.device)
    actions[:, steps] = in_chunks(act, data.observations[data.index[steps] + 1])
    return actions


@torch.no_grad()
def in_chunks(act: Callable[[Tensor], Tensor], observations: Tensor) -> Tensor:
    """Actions [..., B, A] at observations [B, D], a few thousand at a time."""
    return torch.cat([act(chunk) for chunk in observations.split(CHUNK)], dim=-2)
