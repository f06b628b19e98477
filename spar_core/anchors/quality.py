r"""Quality of an anchor, measured on held-out episodes.

* ``anchor/heldout_mse``, ``anchor/train_mse``: mean squared error of the deterministic action. The second is over the
  (chosen and spoilt) steps that the anchor was cloned from;
* ``anchor/heldout_log_density``: mean log density of logged actions, where the anchor has a density;
* ``anchor/coverage_distance``: mean distance from a logged action to the nearest of ``SAMPLES`` draws;
* ``anchor/bimodal_share``: share of the states whose neighbours in the data act in two clearly separate ways;
* ``anchor/modes_missed``: share of those ways that no draw comes near.

Two ways of acting are found so: the actions of the nearest training states are projected on their first principal
direction and split in two where the squared error is least. The split counts if the means lie ``SEPARATION`` pooled
standard deviations apart and each side holds a fifth of the neighbours. Ashman, Bird and Zepf 1994 ask for 2 standard
deviations, of a fitted mixture. A split of one uniform mode already shows 3.5, so this test asks for more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from spar_core.data.dataset import Dataset
from spar_core.evenly import evenly
from spar_core.training.context import Context
from spar_core.training.networks import per_seed_mean
from spar_core.training.randomness import stream, streams

SAMPLES = 32
# Held-out steps at which samples are drawn: for coverage, and for modes.
STEPS, MODE_STEPS = 2048, 512
# Training states among which neighbours are looked up.
BANK = 20_000
NEIGHBOURS, SEPARATION, SMALLEST_SIDE = 25, 5.0, 0.2
# A draw is near a way of acting if it lies within this share of the distance to the other way.
NEAR = 0.25


class Actor(Protocol):
    """The part of an anchor that is measured."""

    stochastic: bool
    has_density: bool

    def act_on_all(self, observations: Tensor, seeds: int) -> Tensor: ...

    def sample(self, observations: Tensor, generators: Sequence[torch.Generator]) -> Tensor: ...

    def log_density(self, observations: Tensor, actions: Tensor) -> Tensor: ...


@torch.no_grad()
def measure(anchor: Actor, context: Context, seen: Dataset) -> dict[str, list[float]]:
    """Quality of a frozen anchor, one value a seed.

    Args:
        anchor: one policy for each of the context's seeds.
        context: the held-out episodes of its dataset are what is measured on.
        seen: the dataset that the anchor was cloned from.
    """
    dataset = context.dataset
    # About as many training steps as there are held-out steps, so that both errors are equally exact.
    train = seen.train_steps[:: max(1, len(seen.train_steps) // max(1, len(dataset.heldout_steps)))]
    metrics = {
        "anchor/heldout_mse": _error(anchor, context, dataset, dataset.heldout_steps),
        "anchor/train_mse": _error(anchor, context, seen, train),
    }
    steps = evenly(dataset.heldout_steps, STEPS)
    observations, actions = _at(dataset, steps, context.device)
    draws = _draws(anchor, context.seeds, observations)
    nearest = (draws - actions.unsqueeze(1)).norm(dim=-1).min(dim=-1).values
    metrics["anchor/coverage_distance"] = per_seed_mean(nearest).tolist()
    if anchor.has_density:
        wide = (values.expand(len(context.seeds), -1, -1) for values in (observations, actions))
        metrics["anchor/heldout_log_density"] = per_seed_mean(anchor.log_density(*wide)).tolist()
    return metrics | _modes(anchor, context)


def _error(anchor: Actor, context: Context, dataset: Dataset, steps: np.ndarray) -> list[float]:
    """Mean squared error of the deterministic action at steps of a dataset, one value a seed."""
    observations, actions = _at(dataset, steps, context.device)
    return per_seed_mean((anchor.act_on_all(observations, len(context.seeds)) - actions).square()).tolist()


def _draws(anchor: Actor, seeds: Sequence[int], observations: Tensor) -> Tensor:
    """Samples [S, n, M, A] at observations [n, D]. A deterministic anchor gives its action, so that M is 1."""
    if not anchor.stochastic:
        return anchor.act_on_all(observations, len(seeds)).unsqueeze(2)
    generators = streams(seeds, "anchor/quality")
    parts = []
    for chunk in observations.split(128):
        wide = chunk.repeat_interleave(SAMPLES, dim=0).expand(len(seeds), -1, -1)
        parts.append(anchor.sample(wide, generators).unflatten(1, (len(chunk), SAMPLES)))
    return torch.cat(parts, dim=1)


def _modes(anchor: Actor, context: Context) -> dict[str, list[float]]:
    """Share of states with two ways of acting, and share of those ways that no draw comes near."""
    dataset, seeds = context.dataset, context.seeds
    states, _ = _at(dataset, evenly(dataset.heldout_steps, MODE_STEPS), context.device)
    train = dataset.train_steps
    picks = torch.randperm(len(train), generator=stream(0, "anchor/quality/bank")).numpy()[:BANK]
    bank, actions = _at(dataset, np.sort(train[picks]), context.device)
    k = min(NEIGHBOURS, len(bank))
    near = torch.cdist(states, bank, compute_mode="donot_use_mm_for_euclid_dist").topk(k, largest=False).indices
    direction, means, separate = two_ways(actions[near])
    share = separate.float().mean().item()
    missed = [float("nan")] * len(seeds)
    if separate.any():
        draws = _draws(anchor, seeds, states[separate])
        along = torch.einsum("snma,na->snm", draws, direction[separate])
        near_enough = (means[separate, 1] - means[separate, 0]) * NEAR
        # [S, n, M, 2]: distance of each draw from each of the two ways.
        away = (along.unsqueeze(-1) - means[separate].unsqueeze(1)).abs()
        reached = (away < near_enough.view(-1, 1, 1)).any(dim=2).float()
        missed = per_seed_mean(1.0 - reached).tolist()
    return {"anchor/bimodal_share": [share] * len(seeds), "anchor/modes_missed": missed}


def two_ways(actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Split the actions of k neighbours, [n, k, A], in two along their first principal direction.

    Returns:
        direction [n, A], the two means along it [n, 2], and whether they lie clearly apart [n] bool.
    """
    if actions.shape[1] == 1:  # A single neighbour cannot be split; two copies of it do not lie apart.
        actions = actions.expand(-1, 2, -1)
    k = actions.shape[1]
    centred = actions - actions.mean(dim=1, keepdim=True)
    direction = torch.linalg.eigh(centred.mT @ centred).eigenvectors[..., -1]
    along = torch.einsum("nka,na->nk", actions, direction).sort(dim=1).values.double()
    counts = torch.arange(1, k, dtype=torch.double, device=actions.device)
    sums, squares = along.cumsum(1), along.square().cumsum(1)
    low, high = sums[:, :-1] / counts, (sums[:, -1:] - sums[:, :-1]) / (k - counts)
    within = squares[:, -1:] - counts * low.square() - (k - counts) * high.square()
    # A split that leaves one side nearly empty has found outliers and no way of acting.
    allowed = (counts >= SMALLEST_SIDE * k) & (k - counts >= SMALLEST_SIDE * k)
    best = within.masked_fill(~allowed, float("inf")).argmin(dim=1, keepdim=True)
    means = torch.cat([low.gather(1, best), high.gather(1, best)], dim=1)
    spread = (within.gather(1, best).squeeze(1) / k).clamp_min(1e-12).sqrt()
    separate = allowed.any() & ((means[:, 1] - means[:, 0]) > SEPARATION * spread)
    return direction, means.float(), separate


def _at(dataset: Dataset, steps: np.ndarray, device: str) -> tuple[Tensor, Tensor]:
    """Observations [n, D] and actions [n, A] of some steps, on the device."""
    observations = torch.as_tensor(dataset.observations[dataset.observation_index[steps]])
    return observations.to(device), torch.as_tensor(dataset.actions[steps]).to(device)
