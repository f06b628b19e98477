r"""How many candidates carry the weight in a state, and how far the critic's own networks disagree there.

With candidates and weights as the rule draws them (:mod:`spar_core.improvement.candidates`), the effective number is
:math:`1 / \sum_k w_k^2`, from 1 (one is taken greedily) to K (the critic prefers none). Kish (1965) calls it the
effective sample size. The critic's disagreement is the standard deviation of its networks; small, it shows agreement
and not truth, since networks of one design that were fitted to the same data share their errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spar_core.improvement.base import Frozen, clipped_candidates
from spar_core.networks import CHUNK

# States whose candidates go through the networks at once.
STATES_AT_ONCE = 256


@dataclass(frozen=True)
class Candidates:
    """K candidates of each of n states, of one seed: corrections [n, K, A], latents [n, K, Z], weights [n, K]."""

    corrections: Tensor
    latents: Tensor
    weights: Tensor

    @property
    def effective(self) -> Tensor:
        """[n]."""
        return 1.0 / self.weights.square().sum(-1)

    def targets(self, equal: bool = False) -> tuple[Tensor, Tensor]:
        """Barycentres of the corrections [1, n, A] and of the latents [1, n, Z]; with equal weights if asked."""
        weights = (torch.full_like(self.weights, 1.0 / self.weights.shape[1]) if equal else self.weights).unsqueeze(-1)
        return (weights * self.corrections).sum(1).unsqueeze(0), (weights * self.latents).sum(1).unsqueeze(0)


@torch.no_grad()
def draw_candidates(
    frozen: Frozen,
    settings: Any,
    observations: Tensor,
    base: Tensor,
    generator: torch.Generator,
    centre: Tensor | None = None,
) -> Candidates:
    """As a refresh of the rule draws and weighs them, for states [1, n, .] of one seed.

    Args:
        frozen: anchor, residual model and critic of one seed.
        settings: of a rule that imitates candidates (``candidates``, ``latent_clip``, ``tau``, ``weighting``, ...).
        observations: [1, n, D].
        base: anchor actions [1, n, A].
        generator: of the latents.
        centre: latents [1, n, Z] that candidates are drawn about, for rules that re-centre them; about 0 without.
    """
    k, size = settings.candidates, frozen.residual.latent_size
    corrections, latents, values = [], [], []
    for rows in torch.arange(base.shape[1], device=base.device).split(STATES_AT_ONCE):
        z = torch.randn(len(rows) * k, size, generator=generator).to(base.device).unsqueeze(0)
        if centre is not None:
            step = (settings.recentre_std * z).clamp(-settings.trust, settings.trust)
            z = centre[:, rows].repeat_interleave(k, dim=1) + step
        z = z.clamp(-settings.latent_clip, settings.latent_clip)
        wide, wide_base = (x[:, rows].repeat_interleave(k, dim=1) for x in (observations, base))
        d = clipped_candidates(frozen, wide, wide_base, z)
        if settings.weighting == "equal":
            q = d.new_zeros(d.shape[:2])
        else:
            assert frozen.critic is not None
            q = frozen.critic.q(wide, wide_base + d)
        corrections.append(d[0].unflatten(0, (len(rows), k)))
        latents.append(z[0].unflatten(0, (len(rows), k)))
        values.append(q[0].unflatten(0, (len(rows), k)))
    q = torch.cat(values)
    spread = q.std(dim=-1).median().clamp_min(settings.spread_floor)
    return Candidates(torch.cat(corrections), torch.cat(latents), torch.softmax(q / (settings.tau * spread), dim=-1))


@torch.no_grad()
def disagreement(frozen: Frozen, observations: Tensor, actions: Tensor) -> Tensor:
    """Standard deviation of the critic's networks [n] at actions [1, n, A], in its scaled rewards."""
    assert frozen.critic is not None
    pairs = zip(observations.split(CHUNK, 1), actions.split(CHUNK, 1), strict=True)
    return torch.cat([frozen.critic.uncertainty(o, a)[0] for o, a in pairs])
