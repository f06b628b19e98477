r"""How good is an anchor? Measured on held-out episodes, never assumed.

* ``anchor/heldout_mse``, ``anchor/train_mse``: mean squared error of the deterministic action, the second on the
  (chosen and spoilt) steps that it was cloned from;
* ``anchor/heldout_log_density``: mean log density of logged actions, where the anchor has one;
* ``anchor/coverage_distance``: mean distance from a logged action to the nearest of ``SAMPLES`` draws;
* ``anchor/bimodal_share`` and ``anchor/modes_missed``: of the states whose neighbours in the data act in two
  clearly separate ways, the share of those ways that none of the draws comes near.

The test for two ways of acting: the actions of the nearest training states are projected on their first
principal direction and split in two where the squared error is least; the split counts when the means lie
``SEPARATION`` pooled standard deviations apart (Ashman, Bird and Zepf 1994 ask for 2 of a fitted mixture; a split of
one uniform mode already shows 3.5, so this asks for more) and each side holds a fifth of the neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from spar_core.data.dataset import Dataset
from spar_core.evenly import evenly
from spar_core.training.networks import per_seed_mean
from spar_core.training.randomness import stream, streams

SAMPLES = 32
# Held-out steps on which samples are drawn; training states among which neighbours are looked up.
STEPS, MODE_STEPS, BANK = 2048, 512, 20_000
NEIGHBOURS, SEPARATION, SMALLEST_SIDE = 25, 5.0, 0.2
# A draw is near one way of acting within this share of the distance to the other: halfway between is near neither.
NEAR = 0.25


class Actor(Protocol):
    """The part of an anchor that is measured."""

    stochastic: bool
    has_density: bool

    def act_on_all(self, observations: Tensor, seeds: int) -> Tensor: ...

    def sample(self, observations: Tensor, generators: Sequence[torch.Generator]) -> Tensor: ...

    def log_density(self, observations: Tensor, actions: Tensor) -> Tensor: ...


@torch.no_grad()
def measure(
    anchor: Actor, dataset: Dataset, seen: Dataset, seeds: Sequence[int], device: str = "cpu"
) -> dict[str, list[float]]:
    """Quality of a frozen anchor, one value a seed.

    Args:
        anchor: of ``seeds``.
        dataset: its held-out episodes are what is measured on.
        seen: the dataset that the anchor was cloned from.
        seeds: for the draws.
        device: where the anchor acts.
    """
    n = len(seeds)
    # As many training steps as there are held-out ones: enough for the same error on data that it has seen.
    train = seen.train_steps[:: max(1, len(seen.train_steps) // max(1, len(dataset.heldout_steps)))]
    metrics = {
        "anchor/heldout_mse": _error(anchor, dataset, dataset.heldout_steps, n, device),
        "anchor/train_mse": _error(anchor, seen, train, n, device),
    }
    steps = evenly(dataset.heldout_steps, STEPS)
    observations, actions = _at(dataset, steps, device)
    draws = _draws(anchor, observations, seeds)
    nearest = (draws - actions.unsqueeze(1)).norm(dim=-1).min(dim=-1).values
    metrics["anchor/coverage_distance"] = per_seed_mean(nearest).tolist()
    if anchor.has_density:
        wide = observations.expand(n, -1, -1), actions.expand(n, -1, -1)
        metrics["anchor/heldout_log_density"] = per_seed_mean(anchor.log_density(*wide)).tolist()
    return metrics | _modes(anchor, dataset, seeds, device)


def _error(anchor: Actor, dataset: Dataset, steps: np.ndarray, seeds: int, device: str) -> list[float]:
    observations, actions = _at(dataset, steps, device)
    return per_seed_mean((anchor.act_on_all(observations, seeds) - actions).square()).tolist()


def _draws(anchor: Actor, observations: Tensor, seeds: Sequence[int]) -> Tensor:
    """Samples [S, n, M, A]; one, the action, of an anchor without chance."""
    if not anchor.stochastic:
        return anchor.act_on_all(observations, len(seeds)).unsqueeze(2)
    generators = streams(seeds, "anchor/quality")
    parts = []
    for chunk in observations.split(128):
        wide = chunk.repeat_interleave(SAMPLES, dim=0).expand(len(seeds), -1, -1)
        parts.append(anchor.sample(wide, generators).unflatten(1, (len(chunk), SAMPLES)))
    return torch.cat(parts, dim=1)


def _modes(anchor: Actor, dataset: Dataset, seeds: Sequence[int], device: str) -> dict[str, list[float]]:
    """Share of states with two ways of acting, and of those ways that no draw comes near."""
    states, _ = _at(dataset, evenly(dataset.heldout_steps, MODE_STEPS), device)
    train = dataset.train_steps
    picks = torch.randperm(len(train), generator=stream(0, "anchor/quality/bank")).numpy()[:BANK]
    bank, actions = _at(dataset, np.sort(train[picks]), device)
    k = min(NEIGHBOURS, len(bank))
    near = torch.cdist(states, bank, compute_mode="donot_use_mm_for_euclid_dist").topk(k, largest=False).indices
    direction, means, separate = two_ways(actions[near])
    share = separate.float().mean().item()
    missed = [float("nan")] * len(seeds)
    if separate.any():
        draws = _draws(anchor, states[separate], seeds)
        along = torch.einsum("snma,na->snm", draws, direction[separate])
        near_enough = (means[separate, 1] - means[separate, 0]) * NEAR
        # [S, n, M, 2]: how far each draw lies from each of the two ways.
        away = (along.unsqueeze(-1) - means[separate].unsqueeze(1)).abs()
        reached = (away < near_enough.view(-1, 1, 1)).any(dim=2).float()
        missed = per_seed_mean(1.0 - reached).tolist()
    return {"anchor/bimodal_share": [share] * len(seeds), "anchor/modes_missed": missed}


def two_ways(actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Split the actions of k neighbours, [n, k, A], in two along their first principal direction.

    Returns:
        direction [n, A], the two means along it [n, 2], and whether they lie clearly apart [n] bool.
    """
    k = actions.shape[1]
    centred = actions - actions.mean(dim=1, keepdim=True)
    direction = torch.linalg.eigh(centred.mT @ centred).eigenvectors[..., -1]
    along = torch.einsum("nka,na->nk", actions, direction).sort(dim=1).values.double()
    counts = torch.arange(1, k, dtype=torch.double, device=actions.device)
    sums, squares = along.cumsum(1), along.square().cumsum(1)
    low, high = sums[:, :-1] / counts, (sums[:, -1:] - sums[:, :-1]) / (k - counts)
    within = squares[:, -1:] - counts * low.square() - (k - counts) * high.square()
    # Splits that leave a side nearly empty find outliers, not a way of acting.
    allowed = (counts >= SMALLEST_SIDE * k) & (k - counts >= SMALLEST_SIDE * k)
    best = within.masked_fill(~allowed, float("inf")).argmin(dim=1, keepdim=True)
    means = torch.cat([low.gather(1, best), high.gather(1, best)], dim=1)
    spread = (within.gather(1, best).squeeze(1) / k).clamp_min(1e-12).sqrt()
    separate = allowed.any() & ((means[:, 1] - means[:, 0]) > SEPARATION * spread)
    return direction, means.float(), separate


def _at(dataset: Dataset, steps: np.ndarray, device: str) -> tuple[Tensor, Tensor]:
    observations = torch.as_tensor(dataset.observations[dataset.observation_index[steps]])
    return observations.to(device), torch.as_tensor(dataset.actions[steps]).to(device)
