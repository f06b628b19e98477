"""Does the critic agree with what was observed? A one-sided check on held-out episodes.

On the best tenth of the held-out episodes the critic must not lie below the observed returns, and shortly before
terminations it must not lie far above them. An unconverged critic fails both, because it is too flat, and every rule
that trusts it fails with it. Passing is necessary and not sufficient: a critic that is fitted to returns passes by
construction, an expectile rightly exceeds poor behaviour, and neither check says how the critic ranks actions.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from spar_core.critics.base import Critic
from spar_core.data.dataset import Dataset
from spar_core.data.returns import discounted_returns, last_observations
from spar_core.training.context import Context
from spar_core.training.networks import CHUNK
from spar_core.training.randomness import stream

# Steps before a termination that count as "shortly before".
BEFORE_TERMINATION = 20
# Share of held-out episodes, by return, that counts as the best.
BEST_SHARE = 0.1


def calibrate(critic: Critic, context: Context, discount: float, scale: float) -> dict[str, list[float]]:
    """Compare Q_c with observed discounted returns on held-out episodes.

    Args:
        critic: of the context's seeds.
        context: the data and seeds.
        discount: gamma of the critic.
        scale: factor of the rewards that the critic was fitted to.

    Returns:
        One value a seed by metric. Gaps are means of Q_c minus the return, in standard deviations of the observed
        returns over all held-out steps: 0 is agreement, -1 an underestimate by one standard deviation. A gap is NaN
        where there are no such steps.
    """
    dataset, data, seeds = context.dataset, context.data, len(context.seeds)
    steps = dataset.heldout_steps
    q = values_at(critic, context, torch.as_tensor(steps).to(context.device))
    ends = torch.as_tensor(last_observations(dataset)).to(context.device)
    tails = critic.v(data.observations[ends].expand(seeds, -1, -1)).cpu().numpy() / scale
    best, late = _best_episodes(dataset)[dataset.episode[steps]], _before_termination(dataset)[steps]
    gaps: dict[str, list[float]] = {
        "critic/gap_best_tenth": [],
        "critic/gap_before_termination": [],
        "critic/rank_correlation": [],
        "critic/q_mean_heldout": [],
    }
    for row, tail in zip(q.cpu().numpy().astype(np.float64), tails, strict=True):
        observed = scale * discounted_returns(dataset, discount, tail)[steps].astype(np.float64)
        gap = (row - observed) / max(float(observed.std()), 1e-6)
        gaps["critic/gap_best_tenth"].append(_mean(gap[best]))
        gaps["critic/gap_before_termination"].append(_mean(gap[late]))
        gaps["critic/rank_correlation"].append(_rank_correlation(row, observed))
        gaps["critic/q_mean_heldout"].append(float(row.mean()))
    return gaps


def uncertainty_levels(critic: Critic, context: Context) -> dict[str, list[float]]:
    """Mean uncertainty at held-out observations, one value a seed: of the logged actions, and of uniform ones.

    The uniform actions are the same for every seed. A critic that tells the data's actions from others is more
    uncertain of the uniform ones.
    """
    dataset, data = context.dataset, context.data
    steps = torch.as_tensor(dataset.heldout_steps)
    uniform = torch.rand(len(steps), dataset.action_size, generator=stream(0, "critic/uncertainty_random")) * 2 - 1
    everywhere = torch.zeros_like(data.actions)
    steps = steps.to(everywhere.device)
    everywhere[steps] = uniform.to(everywhere.device)
    levels = {
        "critic/uncertainty_heldout": _in_chunks(critic.uncertainty, context, steps, data.actions),
        "critic/uncertainty_random": _in_chunks(critic.uncertainty, context, steps, everywhere),
    }
    return {name: [_mean(row.astype(np.float64)) for row in rows.cpu().numpy()] for name, rows in levels.items()}


def values_at(critic: Critic, context: Context, steps: Tensor) -> Tensor:
    """Q_c of the logged actions at the steps [n], [S, n]."""
    return _in_chunks(critic.q, context, steps, context.data.actions)


@torch.no_grad()
def _in_chunks(
    function: Callable[[Tensor, Tensor], Tensor], context: Context, steps: Tensor, actions: Tensor
) -> Tensor:
    """``function`` of all seeds, [S, n], at the observations of the steps [n] and their rows of ``actions`` [N, A]."""
    data, seeds, parts = context.data, len(context.seeds), []
    for chunk in steps.split(CHUNK):
        observations = data.observations[data.index[chunk]]
        parts.append(function(observations.expand(seeds, -1, -1), actions[chunk].expand(seeds, -1, -1)))
    return torch.cat(parts, dim=1)


def _best_episodes(dataset: Dataset) -> np.ndarray:
    """[E] bool: the best tenth of the held-out episodes by return, at least one."""
    heldout = np.flatnonzero(dataset.heldout)
    order = heldout[np.argsort(-dataset.returns_as_logged[heldout], kind="stable")]
    flags = np.zeros(len(dataset.lengths), dtype=bool)
    flags[order[: max(1, round(BEST_SHARE * len(order)))]] = True
    return flags


def _before_termination(dataset: Dataset) -> np.ndarray:
    """[N] bool: the last steps before a termination, or before one of the dataset's ``stops``."""
    late: np.ndarray = dataset.to_termination < min(BEFORE_TERMINATION, dataset.n_steps)
    return late


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation."""
    # Imported here, because acting with a critic needs no SciPy.
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic) if len(a) > 1 else float("nan")
