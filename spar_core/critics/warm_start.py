"""Regression of Q and V on observed discounted returns.

This is the warm start of every temporal-difference critic, and the whole of the critic ``returns``. It is this
project's
addition: temporal differences alone take several times as many steps to learn that a fall is near, and a critic that
    has
not learnt that yet ruins a good anchor.

The first half of the steps regresses on nearly whole returns, those of steps far from a cut. The second half takes all
steps, and continues truncated returns by V as it stands at that time (by the mean V where a seed has several).
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
    """Regress all Q and V networks on returns: nearly whole ones first, then all, continued by V.

    Raises:
        SparError: the fit diverged.
    """
    context, settings, data = problem.context, problem.settings, problem.data
    train = problem.dataset.train_steps
    whole = train[far_from_cut(problem.dataset, settings.discount)[train]]
    largest = beyond_rewards(problem)

    def curve(step: int, info: Info) -> Info:
        error = max(value.max().sqrt().item() for value in info.values())
        what = f"its error to observed returns is {error:.3g} at warm-start step {step}"
        stop_if(not error < largest, what, "lower its learning_rate")
        return info

    half = steps // 2
    for phase, (before, phase_steps) in enumerate(((0, half), (half, steps - half))):
        choices = whole if phase == 0 and len(whole) else train
        targets = scaled_returns(critic if phase == 1 else None, problem)

        def loss(picked: Tensor, targets: Tensor = targets) -> tuple[Tensor, Info]:
            return return_loss(critic, *data.at(picked), targets[context.rows, picked])

        purpose = f"critic/warm_start/{phase}"
        draws = {"batches": Minibatches(choices, context.seeds, settings.batch_size, purpose, context.device)}
        name = f"warm_start-{phase}"
        minimise(loss, context, adam, draws, name=name, steps=phase_steps, before=before, total=steps, curve=curve)


def scaled_returns(critic: StackedCritic | None, problem: Problem) -> Tensor:
    """Scaled discounted returns [S, N] of all steps. A critic's V continues truncated episodes; without one, 0 does."""
    dataset, data, n = problem.dataset, problem.data, len(problem.seeds)
    tails: list[np.ndarray | None] = [None] * n
    if critic is not None:
        ends = torch.as_tensor(last_observations(dataset)).to(data.observations.device)
        values = critic.v(data.observations[ends].expand(n, -1, -1))
        tails = [row.cpu().numpy() / problem.scale for row in values]
    discount = problem.settings.discount
    rows = [torch.as_tensor(discounted_returns(dataset, discount, tail)) * problem.scale for tail in tails]
    return torch.stack(rows).to(data.observations.device)


def return_loss(
    critic: StackedCritic, observations: Tensor, actions: Tensor, returns: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Squared error of every Q network and of every V network to scaled observed returns [S, B]."""
    q = q_values(critic.networks, observations, actions)
    v = v_values(critic.state_value, observations)
    q_error = per_seed_mean((q - returns.unsqueeze(1)).square())
    v_error = per_seed_mean((v - returns.unsqueeze(1)).square())
    info = {"critic/warm_start_q_loss": q_error.detach(), "critic/warm_start_v_loss": v_error.detach()}
    return (q.shape[1] * q_error + v.shape[1] * v_error).sum(), info


def beyond_rewards(problem: Problem) -> float:
    """A bound on estimates: 10 times the largest discounted sum of scaled rewards."""
    largest = float(np.abs(problem.dataset.rewards).max())
    return 10.0 * problem.scale * largest / (1 - problem.settings.discount) + 1.0


def stop_if(diverged: bool, what: str, hint: str) -> None:
    """End a fit that has diverged.

    Raises:
        SparError: ``diverged`` is true.
    """
    if diverged:
        raise SparError(f"the critic diverged: {what}, beyond what rewards allow", hint)
