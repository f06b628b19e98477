r"""Candidates of latent self-imitation, their weights and barycentres (SPAR, stage iii).

For each of a set of states, with K latents :math:`z_k \sim \mathcal{N}(0, I)` clipped to :math:`[-c, c]`:

.. math::
   d_k = \mathrm{clip}(a_b + G(s, a_b, z_k)) - a_b, \quad q_k = Q_c(s, a_b + d_k), \quad
   w = \mathrm{softmax}\big(q / (\tau \sigma)\big)

:math:`\sigma` is the median over states of the spread of q within a state, per seed and refresh, so that
:math:`\tau` means the same on every task. The anchor, G and the critic are frozen, so none of this needs a
gradient, and it is computed once a refresh.

How candidates weigh, safeguards included, is in :mod:`spar_core.improvement.weights`. Where the anchor is a candidate
too (``anchor_weight``), its correction is zero, exactly; among the latents, where no z may give it, it is stood for by
the candidate that moves the action least.

SPAR-PROJ may draw later refreshes about the latents it has reached instead (:mod:`spar_core.improvement.spar_proj`).

Source: latent self-imitation in SPAR (arXiv 2605.27877); the formulas are this project's reading.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, PositiveInt, ValidationInfo, field_validator
from torch import Tensor

from spar_core.data.dataset import Dataset
from spar_core.data.device import DeviceData
from spar_core.improvement.base import Frozen, clipped_candidates
from spar_core.improvement.weights import SafeguardSettings, disagreement_about_advantage, weigh
from spar_core.training.randomness import normal, stream

# States handled at once; times K rows go through the networks, and stay in the processor's cache.
STATES_AT_ONCE = 256

# (observations, base), [S, B, .], to the latents [S, B, Z] that candidates are drawn about.
Centre = Callable[[Tensor, Tensor], Tensor]


class CandidateSettings(SafeguardSettings):
    """Settings of every rule that imitates weighted candidates."""

    weighting: Literal["critic", "equal"] = "critic"
    tau: float = Field(1.0, gt=0)
    latent_clip: float = Field(1.0, gt=0)
    candidates: int = Field(16, ge=2)
    states: PositiveInt = 30_000
    refreshes: PositiveInt = 1
    spread_floor: float = Field(1e-3, gt=0)


class ProjSettings(CandidateSettings):
    """... and in latent space, where candidates may be drawn about the policy."""

    recentre: bool = False
    recentre_std: float = Field(0.5, gt=0)
    trust: float = Field(0.5, gt=0)

    @field_validator("recentre")
    @classmethod
    def _rounds_take_refreshes(cls, recentre: bool, info: ValidationInfo) -> bool:
        if recentre and info.data.get("refreshes") == 1:
            raise ValueError("the first refresh is drawn about 0, so rounds need refreshes of 2 or more")
        return recentre


@dataclass(frozen=True)
class Candidates:
    """K weighted candidates at n states of each of S seeds.

    Attributes:
        corrections: [S, n, K, A].
        latents: [S, n, K, Z].
        weights: [S, n, K]; with ``of_anchor`` they sum to one.
        of_anchor: [S, n], weight of the anchor; 0 where it is no candidate.
        prior: what the anchor weighs where the critic is flat.
        spread: [S], sigma, in scaled return units.
    """

    corrections: Tensor
    latents: Tensor
    weights: Tensor
    of_anchor: Tensor
    prior: float
    spread: Tensor

    @property
    def effective(self) -> Tensor:
        """Effective number of candidates [S, n], 1 / sum of squared weights."""
        return 1.0 / (self.weights.square().sum(-1) + self.of_anchor.square())

    def barycentres(self, flat: bool = False) -> tuple[Tensor, Tensor]:
        """Weighted means of the corrections [S, n, A] and of the latents [S, n, Z]; those of a flat critic if asked."""
        weights, of_anchor = self.weights, self.of_anchor
        if flat:
            weights = torch.full_like(weights, (1.0 - self.prior) / weights.shape[-1])
            of_anchor = torch.full_like(of_anchor, self.prior)
        latent = (weights.unsqueeze(-1) * self.latents).sum(2)
        if self.prior > 0:
            # Among the latents the anchor is stood for by the candidate that moves the action least.
            least = self.corrections.norm(dim=-1).argmin(dim=-1, keepdim=True).unsqueeze(-1)
            stand_in = self.latents.gather(2, least.expand(-1, -1, -1, latent.shape[-1])).squeeze(2)
            latent = latent + of_anchor.unsqueeze(-1) * stand_in
        return (weights.unsqueeze(-1) * self.corrections).sum(2), latent


@torch.no_grad()
def draw_candidates(
    frozen: Frozen,
    settings: CandidateSettings,
    observations: Tensor,
    base: Tensor,
    generators: Sequence[torch.Generator],
    centre: Tensor | None = None,
) -> Candidates:
    """Draw candidates at states [S, n, D] with anchor actions [S, n, A], and weigh them.

    Args:
        frozen: anchor, residual model and critic of the seeds.
        settings: of the rule.
        observations: standardised.
        base: the anchor's actions.
        generators: of the latents, one a seed.
        centre: latents [S, n, Z] that candidates are drawn about; about 0 for None.
    """
    seeds, n, k, size = len(base), base.shape[1], settings.candidates, frozen.residual.latent_size
    # Filled chunk by chunk: joining chunks would need the memory twice, and leave holes in it.
    corrections, latents = base.new_empty(seeds, n, k, base.shape[-1]), base.new_empty(seeds, n, k, size)
    values, of_anchor, apart = base.new_empty(seeds, n, k), base.new_zeros(seeds, n), base.new_zeros(seeds, n)
    for start in range(0, n, STATES_AT_ONCE):
        rows = slice(start, start + STATES_AT_ONCE)
        near, near_base = observations[:, rows], base[:, rows]
        states = near.shape[1]
        z = normal(generators, states * k, size).to(base.device)
        if centre is not None:
            assert isinstance(settings, ProjSettings)
            step = (settings.recentre_std * z).clamp(-settings.trust, settings.trust)
            z = centre[:, rows].repeat_interleave(k, dim=1) + step
        z = z.clamp(-settings.latent_clip, settings.latent_clip)
        wide, wide_base = near.repeat_interleave(k, dim=1), near_base.repeat_interleave(k, dim=1)
        d = clipped_candidates(frozen, wide, wide_base, z)
        corrections[:, rows] = d.unflatten(1, (states, k))
        latents[:, rows] = z.unflatten(1, (states, k))
        values[:, rows] = critic_values(frozen, settings, wide, wide_base + d).unflatten(1, (states, k))
        if settings.anchor_weight > 0:
            of_anchor[:, rows] = critic_values(frozen, settings, near, near_base)
        if settings.disagreement > 0:
            apart[:, rows] = disagreement(frozen, settings, wide, wide_base + d, near, near_base)
    spread = torch.stack([row.std(dim=-1).median() for row in values]).clamp_min(settings.spread_floor)
    doubts = settings.disagreement * apart if settings.disagreement > 0 else None
    weights, for_anchor = weigh(values, of_anchor, doubts, spread, settings.tau, settings.anchor_weight)
    return Candidates(corrections, latents, weights, for_anchor, settings.anchor_weight, spread)


@dataclass(frozen=True)
class Targets:
    """What a rule regresses onto, for n states of each of S seeds.

    Attributes:
        observations: [S, n, D], standardised.
        base: [S, n, A], the anchor's actions.
        correction: [S, n, A], barycentre of the candidate corrections.
        latent: [S, n, Z], barycentre of the latents.
        effective: [S], mean effective number of candidates.
        of_anchor: [S], mean weight of the anchor; 0 where it is no candidate.
        spread: [S], sigma, in scaled return units.
    """

    observations: Tensor
    base: Tensor
    correction: Tensor
    latent: Tensor
    effective: Tensor
    of_anchor: Tensor
    spread: Tensor


@torch.no_grad()
def weighted_targets(
    dataset: Dataset,
    data: DeviceData,
    frozen: Frozen,
    settings: CandidateSettings,
    seeds: Sequence[int],
    refresh: int,
    centre: Centre | None = None,
) -> Targets:
    """Draw states and latents for this refresh (about ``centre``, or 0 for None), ask the critic, and average.

    The same draws serve every rule of the same seeds, so that rules differ in what they do with them only.
    """
    train = torch.as_tensor(dataset.train_steps)
    n = min(settings.states, len(train))
    picks = [train[torch.randperm(len(train), generator=stream(s, f"states/{refresh}"))[:n]] for s in seeds]
    steps = torch.stack(picks).to(data.observations.device)
    observations = data.observations[data.index[steps]]
    base = torch.cat([frozen.anchor.act_on_steps(data, part) for part in steps.split(STATES_AT_ONCE, 1)], dim=1)
    about = None
    if centre is not None:
        pairs = zip(observations.split(STATES_AT_ONCE, 1), base.split(STATES_AT_ONCE, 1), strict=True)
        about = torch.cat([centre(*pair) for pair in pairs], dim=1)
    generators = [stream(seed, f"latents/{refresh}") for seed in seeds]
    drawn = draw_candidates(frozen, settings, observations, base, generators, about)
    return Targets(
        observations,
        base,
        *drawn.barycentres(),
        torch.stack([row.mean() for row in drawn.effective]),
        torch.stack([row.mean() for row in drawn.of_anchor]),
        drawn.spread,
    )


def critic_values(frozen: Frozen, settings: CandidateSettings, observations: Tensor, actions: Tensor) -> Tensor:
    """Q_c [S, n], or zeros where all candidates are to weigh the same."""
    if settings.weighting == "equal":
        return actions.new_zeros(actions.shape[:2])
    assert frozen.critic is not None
    return frozen.critic.q(observations, actions)


def disagreement(
    frozen: Frozen, settings: CandidateSettings, wide: Tensor, actions: Tensor, observations: Tensor, base: Tensor
) -> Tensor:
    """u [S, n] for the candidates [S, n K, A] at the ``wide`` observations; zeros where no setting asks for it."""
    if settings.disagreement == 0.0 or settings.weighting == "equal":
        return base.new_zeros(base.shape[:2])
    assert frozen.critic is not None
    members = frozen.critic.members(wide, actions).unflatten(-1, (base.shape[1], settings.candidates))
    return disagreement_about_advantage(members, frozen.critic.members(observations, base))
