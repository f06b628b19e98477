"""Regression of Q and V on observed discounted returns.

The warm start of every temporal-difference critic, and the whole of the critic ``returns``. It is this project's
addition: temporal differences alone take several times as many steps to learn that a fall is near, and a critic
that has not learnt it yet ruins a good anchor.

Half of the steps see nearly whole returns only, those of steps far from a cut; the other half sees all steps,
with truncated tails continued by V as it stands then (where a seed has several V networks, by their mean).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from spar_core.critics.stacked import Problem, StackedCritic, q_values, v_values
from spar_core.data.returns import discounted_returns, far_from_cut, last_observations
from spar_core.errors import SparError
from spar_core.training.loop import Update, resumable
from spar_core.training.networks import Adam, per_seed_mean
from spar_core.training.randomness import Minibatches
from spar_core.training.reporter import Reporter, is_curve_point


def warm_start(critic: StackedCritic, problem: Problem, steps: int, adam: Adam, report: Reporter) -> None:
    """Regress all Q and V networks on returns: nearly whole ones first, then all, tails continued by V."""
    dataset, data, seeds, discount = problem.dataset, problem.data, problem.seeds, problem.settings.discount
    train = dataset.train_steps
    whole = train[far_from_cut(dataset, discount)[train]]
    ends = torch.as_tensor(last_observations(dataset)).to(data.observations.device)
    rows = torch.arange(len(seeds), device=data.observations.device).unsqueeze(1)
    largest = beyond_rewards(problem)
    before = 0
    for phase, phase_steps in enumerate((steps // 2, steps - steps // 2)):
        tails: list[np.ndarray | None] = [None] * len(seeds)
        choices = whole if phase == 0 and len(whole) else train
        if phase == 1:
            values = critic.v(data.observations[ends].expand(len(seeds), -1, -1))
            tails = [row.cpu().numpy() / problem.scale for row in values]
        targets = torch.stack(
            [torch.as_tensor(discounted_returns(dataset, discount, tail)) * problem.scale for tail in tails]
        ).to(rows.device)
        batches = Minibatches(
            choices, seeds, problem.settings.batch_size, f"critic/warm_start/{phase}", str(rows.device)
        )

        def update(picked: Tensor, targets: Tensor = targets) -> dict[str, Tensor]:
            loss, info = return_loss(critic, *data.at(picked), targets[rows, picked])
            adam.step(loss)
            return info

        run = Update(update, adam, str(rows.device), phase_steps)
        for step in resumable(report, f"warm_start-{phase}", phase_steps, adam=adam, batches=batches):
            done = before + step
            info = run(batches.next())
            if is_curve_point(done, steps):
                error = max(value.max().sqrt().item() for value in info.values())
                what = f"its error to observed returns is {error:.3g} at warm-start step {done}"
                stop_if(not error < largest, what, "lower its learning_rate")
                report.log(done, info)
        before += phase_steps


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
    """10 times what a discounted sum of scaled rewards can be: no estimate any more."""
    largest = float(np.abs(problem.dataset.rewards).max())
    return 10 * problem.scale * largest / (1 - problem.settings.discount) + 1.0


def stop_if(diverged: bool, what: str, hint: str) -> None:
    """End a fit that has diverged."""
    if diverged:
        raise SparError(f"the critic diverged: {what}, beyond what rewards allow", hint)
