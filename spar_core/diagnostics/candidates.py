r"""Disagreement of the critic's own networks: the standard deviation of their values.

A small disagreement shows agreement, not truth: networks of one design that are fitted to the same data share errors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spar_core.improvement.base import Frozen
from spar_core.training.networks import CHUNK


@torch.no_grad()
def disagreement(frozen: Frozen, observations: Tensor, actions: Tensor) -> Tensor:
    """Standard deviation [n] of the critic's networks at actions [1, n, A], in the critic's scaled rewards."""
    assert frozen.critic is not None
    pairs = zip(observations.split(CHUNK, 1), actions.split(CHUNK, 1), strict=True)
    return torch.cat([frozen.critic.uncertainty(o, a)[0] for o, a in pairs])
