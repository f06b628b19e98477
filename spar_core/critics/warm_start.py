r"""Regression of Q and V on observed discounted returns.

.. math::
   L = \mathbb{E} \Big[ \sum_i \big( Q_i(s_t, a_t) - R_t \big)^2 + \sum_m \big( V_m(s_t) - R_t \big)^2 \Big],
   \quad R_t = \sum_{k=t}^{T-1} \gamma^{k-t} r_k + \gamma^{T-t} (1 - \mathrm{terminated}) V(s_T)

Every temporal-difference critic starts with this regression, and the critic ``returns`` is this regression alone. It is
this project's addition: temporal differences alone take several times as many steps to learn that a fall is near, and a
critic that has not learnt it yet ruins a good anchor.

The first half of the steps sees only steps far from a cut, whose returns are nearly whole. The second half sees all
steps; there V as it stood after the first half continues truncated episodes (the mean V, where a seed has several).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from spar_core.critics.stacked import Problem, StackedCritic, q_values, v_values
from spar_core.data.returns import discounted_returns, far_from_cut, last_observations
from spar_core.errors import SparError
from spar_core.training.loop import Info, minimise
from spar_core.training.networks import per_seed_mean
from spar_core.training.optimiser import Adam
from spar_core.training.randomness import Minibatches


def warm_start(critic: StackedCritic, problem: Problem, steps: int, adam: Adam) -> None:
    """Regress all Q and V networks on returns: nearly whole ones first, then all of them.

    Raises:
        SparError: the error to the returns left what rewards allow.
    """
    context, settings = problem.context, problem.settings
    dataset, data, rows = context.dataset, context.data, context.rows
    largest, half = beyond_rewards(problem), steps // 2
    train = dataset.train_steps
    whole = train[far_from_cut(dataset, settings.discount)[train]]

    def curve(step: int, info: Info) -> Info:
        error = max(value.max().sqrt().item() for value in info.values())
        what = f"its error to observed returns is {error:.3g} at warm-start step {step}"
        stop_if(not error < largest, what, "lower its learning_rate")
        return info

    for phase, choices in enumerate((whole if len(whole) else train, train)):
        targets = observed_returns(problem, critic if phase else None)
        purpose = f"critic/warm_start/{phase}"

        def loss(picked: Tensor, targets: Tensor = targets) -> tuple[Tensor, Info]:
            return return_loss(critic, *data.at(picked), targets[rows, picked])

        minimise(
            loss,
            context,
            adam,
            {"batches": Minibatches(choices, context.seeds, settings.batch_size, purpose, context.device)},
            name=f"warm_start-{phase}",
            steps=steps - half if phase else half,
            before=half if phase else 0,
            total=steps,
            curve=curve,
        )


def observed_returns(problem: Problem, critic: StackedCritic | None) -> Tensor:
    """Scaled discounted returns of every step and seed, [S, N].

    Rewards beyond a cut count as zero; with a critic, its V at the last observation stands in for them.
    """
    context, discount = problem.context, problem.settings.discount
    n = len(context.seeds)
    tails: list[np.ndarray | None] = [None] * n
    if critic is not None:
        ends = torch.as_tensor(last_observations(context.dataset)).to(context.device)
        values = critic.v(context.data.observations[ends].expand(n, -1, -1))
        tails = [row.cpu().numpy() / problem.scale for row in values]
    returns = [torch.as_tensor(discounted_returns(context.dataset, discount, tail)) for tail in tails]
    return torch.stack([row * problem.scale for row in returns]).to(context.device)


def return_loss(critic: StackedCritic, observations: Tensor, actions: Tensor, returns: Tensor) -> tuple[Tensor, Info]:
    """Squared error of every Q network and of every V network to scaled observed returns [S, B]."""
    q = q_values(critic.networks, observations, actions)
    v = v_values(critic.state_value, observations)
    q_error = per_seed_mean((q - returns.unsqueeze(1)).square())
    v_error = per_seed_mean((v - returns.unsqueeze(1)).square())
    info = {"critic/warm_start_q_loss": q_error.detach(), "critic/warm_start_v_loss": v_error.detach()}
    return (q.shape[1] * q_error + v.shape[1] * v_error).sum(), info


def beyond_rewards(problem: Problem) -> float:
    """10 times the largest discounted sum of scaled rewards that the data allow. Larger values mean divergence."""
    largest = float(np.abs(problem.context.dataset.rewards).max())
    return 10 * problem.scale * largest / (1 - problem.settings.discount) + 1.0


def stop_if(diverged: bool, what: str, hint: str) -> None:
    """End a fit that has diverged.

    Raises:
        SparError: where ``diverged``; its line says ``what`` was seen.
    """
    if diverged:
        raise SparError(f"the critic diverged: {what}, beyond what rewards allow", hint)
