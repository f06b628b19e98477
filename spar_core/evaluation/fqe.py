r"""Fitted-Q evaluation: what a frozen policy's return would be, estimated from logged data alone.

A network is fitted to the observed returns. Its last hidden layer, with a constant, gives features
:math:`\phi(s, a)`, in which the value of every policy :math:`\pi` is linear. Fitted-Q evaluation then has a closed
form, its fixed point:

.. math::
   Q(s, a) = \phi(s, a)^\top w, \qquad
   \Big( \mathbb{E} \big[ \phi \, (\phi - \gamma (1 - \mathrm{terminated}) \, \phi')^\top \big] + \lambda I \Big) w
   = \mathbb{E} [ \phi \, r ], \qquad
   \hat J(\pi) = \frac{1}{|H|} \sum_{s_0 \in H} \mathrm{clip}\big(Q(s_0, \pi(s_0)), b_-, b_+\big)

with :math:`\phi = \phi(s, a)` and :math:`\phi' = \phi(s', \pi(s'))`, over evenly spread steps of the training episodes
whose next observation is known; :math:`H` holds the first observations of the held-out episodes. The bounds
:math:`b_\pm` are the discounted sums of the smallest and the largest logged reward. The features belong to the dataset:
they are the same for all policies and all seeds, so that differences between policies are paired.

Source: LSTD-Q (Lagoudakis and Parr 2003, "Least-squares policy iteration", section 5), to which fitted-Q evaluation
(Le, Voloshin and Yue 2019, arXiv 1903.08738) with linear functions converges. Deviations: the learned features
(:mod:`spar_core.critics.warm_start`), the ridge :math:`\lambda` (none for the constant), and the bounds.

Limits: where the policy's actions are unlike all logged ones, Q extrapolates, most often upwards, and nothing here
detects that. The estimate is a discounted return from where episodes began. Its spread over seeds comes from the
policies alone, and says nothing of the uncertainty that the data or the features leave.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from spar_core.critics.stacked import Problem, StackedCritic, StackedSettings
from spar_core.critics.warm_start import warm_start
from spar_core.data.dataset import Dataset
from spar_core.data.returns import discounted_returns
from spar_core.data.reward_shift import REWARD_SHIFTS
from spar_core.evenly import evenly
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted
from spar_core.training.networks import CHUNK, Stack
from spar_core.training.reporter import Reporter

# Takes standardised observations [B, D] and gives actions [B, A] in [-1, 1], for the policy of one seed.
Act = Callable[[Tensor], Tensor]
# Takes the same observations and gives actions [S, B, A], for the policies of all seeds.
ActOfSeeds = Callable[[Tensor], Tensor]

# The seed of the features, which all policies share.
FEATURE_SEEDS = (0,)


class FQESettings(StackedSettings):
    """Settings of fitted-Q evaluation."""

    steps: NonNegativeInt = Field(2000, description="steps of regression on observed returns, for the features")
    hidden: tuple[PositiveInt, ...] = Field(
        (128, 128), description="width of each hidden layer; the last is the features"
    )
    transitions: PositiveInt = Field(8000, description="logged steps that the equation averages over, at most")
    ridge: float = Field(0.01, gt=0, description="lambda, for features of about unit size")
    # Far below the critics' 1000: a network that starts near zero and moves by the learning rate cannot reach values of
    # some thousand.
    return_range: float = Field(
        10.0, gt=0, description="rewards are scaled so that the returns of episodes span this much"
    )


@dataclass(frozen=True)
class Estimates:
    """Estimated values of S policies, in the units of ``Dataset.rewards``.

    Attributes:
        values: [S] discounted return from the starts of the held-out episodes.
        clipped: [S] share of the logged steps after which Q lies outside the bounds. A share well above 0 means that Q
            ran away where the policy leaves the data, or that the policy earns the largest (or smallest) logged reward
            at nearly every step.
        at_starts: [S, H] estimate at each held-out start; ``values`` are their means.
    """

    values: list[float]
    clipped: list[float]
    at_starts: list[list[float]]


class ReturnNetwork(StackedCritic):
    """A Q network, whose last hidden layer gives the features, and a V network, fitted to returns."""

    Settings = FQESettings
    conservatism = "none: an estimate, not a bound"
    stack_name = "fqe"
    settings: FQESettings

    @classmethod
    def counts(cls, settings: FQESettings) -> tuple[int, int]:
        return 1, 1

    @classmethod
    def fit(cls, context: Context, settings: FQESettings) -> Fitted:
        problem = Problem.of(context, settings)
        return cls.fitted(problem, settings).finish(problem)

    @classmethod
    def fitted(cls, problem: Problem, settings: FQESettings) -> ReturnNetwork:
        """The networks after the regression.

        Raises:
            SparError: the regression diverged.
        """
        critic = cls.fresh(problem)
        # Where all rewards lie far from zero the values do too; the steps should go into their differences.
        for stack in (critic.networks, critic.state_value):
            stack.parameters[f"{len(stack.shape.hidden)}.bias"] += problem.scale * mean_value(problem)
        warm_start(critic, problem, settings.steps, settings.adam(critic.networks, critic.state_value))
        return critic

    @torch.no_grad()
    def features(self, observations: Tensor, actions: Tensor) -> Tensor:
        """phi [S, B, F + 1] in double precision, for observations [B, D] and actions [S, B, A] of S policies."""
        shape = self.networks.shape
        width = shape.hidden[-1]
        trunk = Stack(replace(shape, hidden=shape.hidden[:-1], outputs=width), 1, str(actions.device))
        for name, values in trunk.parameters.items():
            values.copy_(self.networks.parameters[name])
        # One policy at a time, so that its features do not depend on the policies beside it.
        inputs = [torch.cat([observations, of_policy], dim=-1).unsqueeze(0) for of_policy in actions]
        last = torch.cat([torch.cat([trunk(part) for part in one.split(CHUNK, 1)], dim=1) for one in inputs])
        found = F.relu(F.layer_norm(last, (width,)) if shape.layer_norm else last).double()
        return torch.cat([found, found.new_ones(*found.shape[:2], 1)], dim=-1)


def evaluate_policies(context: Context, acts: Sequence[Act], settings: FQESettings) -> Estimates:
    """Estimate the discounted return of one frozen policy a seed, from the starts of the held-out episodes.

    Args:
        context: the features are fitted to its training episodes.
        acts: the policy of each seed.
        settings: of the estimate.

    Raises:
        SparError: the fit of the features diverged.
    """

    def act(observations: Tensor) -> Tensor:
        return torch.stack([of_seed(observations) for of_seed in acts])

    return next(evaluate_in_turn(context, [act], settings))


def evaluate_in_turn(context: Context, policies: Iterable[ActOfSeeds], settings: FQESettings) -> Iterator[Estimates]:
    """Estimate several policies of the same seeds one after the other, with the same features.

    Args:
        context: as in :func:`evaluate_policies`.
        policies: each gives the actions of all seeds.
        settings: of the estimates.

    Raises:
        SparError: the fit of the features diverged.
    """
    level = reward_level(context.dataset)
    shifted = replace(context.dataset, rewards=context.dataset.rewards - np.float32(level))
    # The features take seconds, so that they need no checkpoint.
    report = Reporter(FEATURE_SEEDS, stopping=context.report.stopping)
    context = replace(context, dataset=shifted, seeds=FEATURE_SEEDS, report=report)
    problem = Problem.of(context, settings)
    network = ReturnNetwork.fitted(problem, settings)
    data, starts, bounds = context.data, start_observations(context.dataset, context.device), value_bounds(problem)
    steps = torch.as_tensor(evenly(context.dataset.bootstrap_steps, settings.transitions)).to(context.device)
    observations, actions = data.at(steps)
    following = data.observations[data.index[steps] + 1]
    rewards, alive = (problem.scale * data.rewards[steps]).double(), data.alive[steps].double()
    (phi,) = network.features(observations, actions.unsqueeze(0))
    for act in policies:
        first, then = in_chunks(act, starts), in_chunks(act, following)
        at_starts, after = network.features(starts, first), network.features(following, then)
        values, clipped = [], []
        for own_after, own_starts in zip(after, at_starts, strict=True):
            w = fixed_point(phi, alive.unsqueeze(-1) * own_after, rewards, settings)
            found = (own_starts @ w).clamp(*bounds) / problem.scale + level / (1.0 - settings.discount)
            values.append(found.tolist())
            beyond = own_after @ w
            clipped.append(float((alive * ((beyond < bounds[0]) | (beyond > bounds[1]))).mean()))
        yield Estimates([float(np.mean(row)) for row in values], clipped, values)


def fixed_point(phi: Tensor, after: Tensor, rewards: Tensor, settings: FQESettings) -> Tensor:
    """The weights w [F] of one seed.

    Args:
        phi: features of logged steps and actions, [n, F]; the last one is constant.
        after: features of the policy's action after each step, [n, F]; zero after a termination.
        rewards: scaled, [n].
        settings: discount and ridge.
    """
    ridge = torch.full_like(phi[0], settings.ridge)
    ridge[-1] = 0.0
    matrix = phi.T @ (phi - settings.discount * after) / len(phi)
    w: Tensor = torch.linalg.solve(matrix + torch.diag(ridge), phi.T @ rewards / len(phi))
    return w


def reward_level(dataset: Dataset) -> float:
    """The mean reward of the training steps, if no step terminates or stops; else 0.

    Without terminations, a constant in all rewards adds the same to the value of every policy, and the network should
    not have to learn it.
    """
    if dataset.step_terminated.any():
        return 0.0
    return float(dataset.rewards[dataset.train_steps].mean(dtype=np.float64))


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
def in_chunks(act: Callable[[Tensor], Tensor], observations: Tensor) -> Tensor:
    """Actions [..., B, A] at observations [B, D], computed a few thousand at a time."""
    return torch.cat([act(chunk) for chunk in observations.split(CHUNK)], dim=-2)
