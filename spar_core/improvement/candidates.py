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
from spar_core.randomness import normal, stream

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
class Targets:
    """What a rule regresses onto, for n states of each of S seeds.

    Attributes:
        observations: [S, n, D], standardised.
        base: [S, n, A], the anchor's actions.
        correction: [S, n, A], barycentre of the candidate corrections.
        latent: [S, n, Z], barycentre of the latents.
        effective: [S], mean effective number of candidates, 1 / sum of squared weights.
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
    device = data.observations.device
    train = torch.as_tensor(dataset.train_steps)
    n = min(settings.states, len(train))
    picks = [train[torch.randperm(len(train), generator=stream(s, f"states/{refresh}"))[:n]] for s in seeds]
    steps = torch.stack(picks).to(device)
    observations = data.observations[data.index[steps]]
    generators = [stream(seed, f"latents/{refresh}") for seed in seeds]

    chunks = []
    for part, of_part in zip(observations.split(STATES_AT_ONCE, 1), steps.split(STATES_AT_ONCE, 1), strict=True):
        states, k = part.shape[1], settings.candidates
        base = frozen.anchor.act_on_steps(data, of_part)
        latents = normal(generators, states * k, frozen.residual.latent_size).to(device)
        if centre is not None:
            assert isinstance(settings, ProjSettings)
            step = (settings.recentre_std * latents).clamp(-settings.trust, settings.trust)
            latents = centre(part, base).repeat_interleave(k, dim=1) + step
        latents = latents.clamp(-settings.latent_clip, settings.latent_clip)
        wide = part.repeat_interleave(k, dim=1)
        wide_base = base.repeat_interleave(k, dim=1)
        corrections = clipped_candidates(frozen, wide, wide_base, latents)
        values = critic_values(frozen, settings, wide, wide_base + corrections).view(len(seeds), states, k)
        of_anchor = critic_values(frozen, settings, part, base)
        apart = disagreement(frozen, settings, wide, wide_base + corrections, part, base)
        corrections, latents = corrections.unflatten(1, (states, k)), latents.unflatten(1, (states, k))
        chunks.append((base, corrections, latents, values, of_anchor, apart))

    columns = (torch.cat(column, dim=1) for column in zip(*chunks, strict=True))
    base, corrections, latents, values, of_anchor, apart = columns
    spread = torch.stack([row.std(dim=-1).median() for row in values]).clamp_min(settings.spread_floor)
    doubts = settings.disagreement * apart if settings.disagreement > 0 else None
    weights, for_anchor = weigh(values, of_anchor, doubts, spread, settings.tau, settings.anchor_weight)
    latent = (weights.unsqueeze(-1) * latents).sum(2)
    if settings.anchor_weight > 0:
        least = corrections.norm(dim=-1).argmin(dim=-1, keepdim=True).unsqueeze(-1)
        stand_in = latents.gather(2, least.expand(-1, -1, -1, latents.shape[-1])).squeeze(2)
        latent = latent + for_anchor.unsqueeze(-1) * stand_in
    effective = 1.0 / (weights.square().sum(-1) + for_anchor.square())
    return Targets(
        observations,
        base,
        (weights.unsqueeze(-1) * corrections).sum(2),
        latent,
        torch.stack([row.mean() for row in effective]),
        torch.stack([row.mean() for row in for_anchor]),
        spread,
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
