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
from spar_core.improvement.candidates import critic_values
from spar_core.improvement.candidates import disagreement as doubts
from spar_core.improvement.weights import weigh
from spar_core.networks import CHUNK

# States whose candidates go through the networks at once.
STATES_AT_ONCE = 256


@dataclass(frozen=True)
class Candidates:
    """K candidates of each of n states, of one seed.

    Attributes:
        corrections: [n, K, A].
        latents: [n, K, Z].
        weights: [n, K]; with ``of_anchor`` they sum to one.
        of_anchor: [n], weight of the anchor; 0 where it is no candidate.
        prior: what the anchor weighs where the critic is flat.
    """

    corrections: Tensor
    latents: Tensor
    weights: Tensor
    of_anchor: Tensor
    prior: float

    @property
    def effective(self) -> Tensor:
        """[n]."""
        return 1.0 / (self.weights.square().sum(-1) + self.of_anchor.square())

    def targets(self, flat: bool = False) -> tuple[Tensor, Tensor]:
        """Barycentres of the corrections [1, n, A] and of the latents [1, n, Z]; those of a flat critic if asked."""
        weights, of_anchor = self.weights, self.of_anchor
        if flat:
            weights = torch.full_like(weights, (1.0 - self.prior) / weights.shape[1])
            of_anchor = torch.full_like(of_anchor, self.prior)
        latent = (weights.unsqueeze(-1) * self.latents).sum(1)
        if self.prior > 0:
            # Among the latents the anchor is stood for by the candidate that moves the action least.
            least = self.corrections.norm(dim=-1).argmin(dim=-1)
            latent = latent + of_anchor.unsqueeze(-1) * self.latents[torch.arange(len(least)), least]
        return (weights.unsqueeze(-1) * self.corrections).sum(1).unsqueeze(0), latent.unsqueeze(0)


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
    parts = []
    for rows in torch.arange(base.shape[1], device=base.device).split(STATES_AT_ONCE):
        z = torch.randn(len(rows) * k, size, generator=generator).to(base.device).unsqueeze(0)
        if centre is not None:
            step = (settings.recentre_std * z).clamp(-settings.trust, settings.trust)
            z = centre[:, rows].repeat_interleave(k, dim=1) + step
        z = z.clamp(-settings.latent_clip, settings.latent_clip)
        near, near_base = observations[:, rows], base[:, rows]
        wide, wide_base = (x.repeat_interleave(k, dim=1) for x in (near, near_base))
        d = clipped_candidates(frozen, wide, wide_base, z)
        values = critic_values(frozen, settings, wide, wide_base + d).unflatten(1, (len(rows), k))
        of_anchor = critic_values(frozen, settings, near, near_base)
        apart = doubts(frozen, settings, wide, wide_base + d, near, near_base)
        parts.append((d.unflatten(1, (len(rows), k)), z.unflatten(1, (len(rows), k)), values, of_anchor, apart))
    corrections, latents, q, of_anchor, apart = (torch.cat(column, dim=1) for column in zip(*parts, strict=True))
    spread = q[0].std(dim=-1).median().clamp_min(settings.spread_floor).unsqueeze(0)
    doubt = settings.disagreement * apart if settings.disagreement > 0 else None
    weights, for_anchor = weigh(q, of_anchor, doubt, spread, settings.tau, settings.anchor_weight)
    return Candidates(corrections[0], latents[0], weights[0], for_anchor[0], settings.anchor_weight)


@torch.no_grad()
def disagreement(frozen: Frozen, observations: Tensor, actions: Tensor) -> Tensor:
    """Standard deviation of the critic's networks [n] at actions [1, n, A], in its scaled rewards."""
    assert frozen.critic is not None
    pairs = zip(observations.split(CHUNK, 1), actions.split(CHUNK, 1), strict=True)
    return torch.cat([frozen.critic.uncertainty(o, a)[0] for o, a in pairs])
