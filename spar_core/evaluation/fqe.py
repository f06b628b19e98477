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

Limits: where the policy's actions are unlike all logged ones, Q extrapolates, most often upwards, and nothing here
detects that. The estimate is a discounted return from where episodes began. Its spread over seeds comes from the
policies and from Q's initial weights, and says nothing of the uncertainty that the data leave.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from spar_core.critics.stacked import Problem, q_values
from spar_core.critics.td import Objective, TDCritic, TDSettings
from spar_core.critics.warm_start import warm_start
from spar_core.data.dataset import Dataset
from spar_core.data.returns import discounted_returns
from spar_core.data.reward_shift import REWARD_SHIFTS
from spar_core.training.context import Context
from spar_core.training.loop import Info
from spar_core.training.networks import CHUNK, Stack, per_seed_mean

# Takes standardised observations [B, D] and gives actions [B, A] in [-1, 1], for the policy of one seed.
Act = Callable[[Tensor], Tensor]
# Takes the same observations and gives actions [S, B, A], for the policies of all seeds.
ActOfSeeds = Callable[[Tensor], Tensor]


class FQESettings(TDSettings):
    """Settings of fitted-Q evaluation."""

    steps: NonNegativeInt = Field(
        10_000, description="steps of temporal differences with the policy's own next actions"
    )
    # Half the critics' width takes a quarter of the time, and every policy of a study is estimated.
    hidden: tuple[PositiveInt, ...] = Field((128, 128), description="width of each hidden layer")
    # An error of the target network falls by the factor exp(-(1 - discount) * target_rate * steps), here e^-5. With the
    # critics' rate of 0.005, as many steps would leave most of the behaviour's value in it.
    target_rate: float = Field(0.05, gt=0, le=1, description="how fast the target network follows, per step")
    # Far below the critics' 1000: a network that starts near zero and moves by the learning rate cannot reach values of
    # some thousand, and what it misses would look like a worse policy.
    return_range: float = Field(
        10.0, gt=0, description="rewards are scaled so that the returns of episodes span this much"
    )


@dataclass(frozen=True)
class Estimates:
    """Estimated values of S policies, in the units of ``Dataset.rewards``.

    Attributes:
        values: [S] discounted return from the starts of the held-out episodes.
        clipped: [S] share of the last minibatch whose next value was clipped. A share well above 0 means that Q ran
            away where the policy leaves the data, or that the policy earns the largest (or smallest) logged reward at
            nearly every step.
        at_starts: [S, H] estimate at each held-out start; ``values`` are their means.
    """

    values: list[float]
    clipped: list[float]
    at_starts: list[list[float]]


class PolicyValue(TDCritic):
    """The Q network of each seed's policy. Its V network serves the warm start alone."""

    Settings = FQESettings
    conservatism = "none: an estimate, not a bound"
    stack_name = "fqe"
    settings: FQESettings
    # The policies' actions [S, N, A] at the observation after each step; see :meth:`of_policies`.
    next_actions: Tensor

    @classmethod
    def counts(cls, settings: FQESettings) -> tuple[int, int]:
        return 1, 1

    @classmethod
    def warmed(cls, problem: Problem) -> PolicyValue:
        """Networks after the regression on observed returns, which is the same for all policies of a seed."""
        critic = cls.fresh(problem)
        # Where all rewards lie far from zero the values do too; the steps should go into their differences.
        for stack in (critic.networks, critic.state_value):
            stack.parameters[f"{len(stack.shape.hidden)}.bias"] += problem.scale * mean_value(problem)
        adam = critic.settings.adam(critic.networks, critic.state_value)
        warm_start(critic, problem, critic.settings.warm_start_steps, adam)
        return critic

    def of_policies(self, next_actions: Tensor) -> PolicyValue:
        """A copy of these networks that learns the values of policies, given their actions after each step."""
        critic = PolicyValue(self.networks.copy(), self.state_value.copy(), self.settings)
        critic.next_actions = next_actions
        return critic

    def objective(self, problem: Problem, target: Stack) -> Objective:
        bounds = value_bounds(problem)
        return Objective(lambda steps: fqe_loss(self, target, problem, bounds, steps))


def fqe_loss(
    critic: PolicyValue, target: Stack, problem: Problem, bounds: tuple[float, float], steps: Tensor
) -> tuple[Tensor, Info]:
    """Squared error at the steps [S, B], with next values clipped to the scaled ``bounds``."""
    context = problem.context
    observations, actions, next_observations = problem.at(steps)
    with torch.no_grad():
        following = q_values(target, next_observations, critic.next_actions[context.rows, steps])
        bounded = following.clamp(*bounds)
        clipped = context.data.alive[steps].unsqueeze(1) * (bounded != following).float()
        targets = problem.backups(steps, bounded)
    q = q_values(critic.networks, observations, actions)
    error = per_seed_mean((q - targets).square())
    info = {
        "fqe/q_loss": error.detach(),
        "critic/q_mean": per_seed_mean(q.detach()),
        "fqe/clipped_share": per_seed_mean(clipped),
    }
    return error.sum(), info


def mean_value(problem: Problem) -> float:
    """Mean discounted return of the training steps, in raw rewards; the mean reward continues cut episodes."""
    dataset, discount = problem.context.dataset, problem.settings.discount
    train = dataset.train_steps
    tails = np.full(len(dataset.lengths), dataset.rewards[train].mean(dtype=np.float64) / (1.0 - discount))
    return float(discounted_returns(dataset, discount, tails)[train].mean(dtype=np.float64))


def value_bounds(problem: Problem) -> tuple[float, float]:
    """Smallest and largest scaled value of any policy whose rewards lie within those of the training episodes."""
    dataset = problem.context.dataset
    rewards = problem.scale * dataset.rewards[dataset.train_steps].astype(np.float64)
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
    """Estimate several policies of the same seeds one after the other, with one warm start for all of them.

    A policy's estimate does not depend on the policies before it: each goes on from the warm start, with the same
    minibatches, so that differences between policies of a seed are paired.

    Args:
        context: as in :func:`evaluate_policies`.
        policies: each gives the actions of all seeds.
        settings: of each fit.

    Raises:
        SparError: a fit diverged.
    """
    problem = Problem.of(context, settings)
    starts = start_observations(context.dataset, context.device)
    warmed = PolicyValue.warmed(problem)
    for number, act in enumerate(policies):
        first_actions = in_chunks(act, starts)
        critic = warmed.of_policies(_next_actions(act, context))
        critic.learn(problem, settings.adam(critic.networks), f"policy-{number}/temporal_differences")
        with torch.no_grad():
            q = q_values(critic.networks, starts.expand(len(context.seeds), -1, -1), first_actions).squeeze(1)
        values = (per_seed_mean(q) / problem.scale).tolist()
        yield Estimates(values, context.report.last("fqe/clipped_share", 0.0), (q / problem.scale).tolist())


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
def _next_actions(act: ActOfSeeds, context: Context) -> Tensor:
    """The policies' actions [S, N, A] at the observation after each training step; other rows are zero and unused."""
    data = context.data
    actions = data.actions.new_zeros(len(context.seeds), *data.actions.shape)
    steps = torch.as_tensor(context.dataset.bootstrap_steps).to(context.device)
    actions[:, steps] = in_chunks(act, data.observations[data.index[steps] + 1])
    return actions


@torch.no_grad()
def in_chunks(act: Callable[[Tensor], Tensor], observations: Tensor) -> Tensor:
    """Actions [..., B, A] at observations [B, D], computed a few thousand at a time."""
    return torch.cat([act(chunk) for chunk in observations.split(CHUNK)], dim=-2)
