"""What logged data alone say about a policy, beside its value: how far it leaves its anchor, and in which directions.

Corrections are measured at the observations of held-out episodes, as quantiles, which need no choice of bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from spar_core.data.dataset import Dataset
from spar_core.evaluation.fqe import FQESettings
from spar_core.evenly import evenly
from spar_core.improvement.base import Improvement
from spar_core.settings import Settings
from spar_core.training.networks import CHUNK

# Shares of the states whose quantiles are given, in percent.
SHARES = tuple(range(0, 101, 5))


class EstimationSettings(Settings):
    """Settings of the values and corrections that are estimated from logged data alone."""

    states: PositiveInt = Field(5000, description="held-out states at which corrections are measured, at most")
    fqe: FQESettings = Field(FQESettings(), description="fitted-Q evaluation of each policy")


def heldout_observations(dataset: Dataset, states: int) -> Tensor:
    """Standardised observations [B, D] of :func:`heldout_steps`."""
    return torch.as_tensor(dataset.observations[dataset.observation_index[heldout_steps(dataset, states)]])


def heldout_steps(dataset: Dataset, most: int) -> np.ndarray:
    """Steps of held-out episodes, evenly spread and ``most`` at most, [B]."""
    return evenly(dataset.heldout_steps, most)


@torch.no_grad()
def corrections(rule: Improvement, observations: Tensor) -> Tensor:
    """What the policy of one seed adds to its anchor's actions at observations [B, D], [B, A].

    Actions lie in [-1, 1] and are clipped before they are compared.
    """
    found = []
    for chunk in observations.split(CHUNK):
        batch = chunk.unsqueeze(0)
        found.append((rule.act(batch) - rule.frozen.anchor.act(batch))[0])
    return torch.cat(found)


def correction_rows(seed: int, values: Tensor, radius: Sequence[float]) -> list[dict[str, Any]]:
    """Rows of ``corrections.csv``: quantiles of the correction's length and of each action dimension.

    Args:
        seed: of the policy.
        values: corrections [B, A].
        radius: of the residual model, [A]; the radius of the length is the distance of the box's corner.

    Returns:
        One row for each quantity ("length", "action 0", ...) and share, with the columns seed, quantity, share (percent
        of the states whose value is not larger), value and radius.
    """
    array = values.numpy().astype(np.float64)
    columns = {"length": np.linalg.norm(array, axis=1)} | {f"action {i}": array[:, i] for i in range(array.shape[1])}
    radii = [float(np.linalg.norm(radius)), *map(float, radius)]
    return [
        {"seed": seed, "quantity": name, "share": share, "value": float(value), "radius": rho}
        for (name, column), rho in zip(columns.items(), radii, strict=True)
        for share, value in zip(SHARES, np.percentile(column, SHARES), strict=True)
    ]
