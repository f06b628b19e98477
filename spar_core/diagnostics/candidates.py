r"""How many candidates carry the weight in a state, and how far the critic's own networks disagree there.

The candidates and weights are drawn as the rule draws them (:mod:`spar_core.improvement.self_imitation`). The effective
number is
:math:`1 / \sum_k w_k^2`, from 1 (one is taken greedily) to K (the critic prefers none). Kish (1965) calls it the
effective sample size. The critic's disagreement is the standard deviation of its networks; small, it shows agreement
and not truth, since networks of one design that were fitted to the same data share their errors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spar_core.improvement.base import Frozen
from spar_core.training.networks import CHUNK


@torch.no_grad()
def disagreement(frozen: Frozen, observations: Tensor, actions: Tensor) -> Tensor:
    """Standard deviation of the critic's networks [n] at actions [1, n, A], in its scaled rewards."""
    assert frozen.critic is not None
    pairs = zip(observations.split(CHUNK, 1), actions.split(CHUNK, 1), strict=True)
    return torch.cat([frozen.critic.uncertainty(o, a)[0] for o, a in pairs])
