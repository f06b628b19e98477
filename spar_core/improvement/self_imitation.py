r"""Latent self-imitation (SPAR, stage iii): regress a policy onto the weighted mean of candidates near its anchor.

**Candidates.** At each of a set of training states, K latents :math:`z_k \sim \mathcal{N}(0, I)`, clipped to
:math:`[-c, c]`, are decoded by the frozen residual model G into corrections of the anchor's action :math:`a_b`, and the
frozen critic values the corrected actions:

.. math:: d_k = \mathrm{clip}_{[-1, 1]}(a_b + G(s, a_b, z_k)) - a_b, \qquad q_k = Q_c(s, a_b + d_k)

**Weights.** :math:`w = \mathrm{softmax}\big(q / (\tau \sigma)\big)`. The scale :math:`\sigma` is the median over states
of the standard deviation of :math:`q` within a state, for each seed, and at least ``spread_floor``. So :math:`\tau`
means the same on every task. With ``weighting: equal`` all candidates weigh the same and the critic is not asked: the
policy learns the residual model's mean correction, which undoes systematic errors of the anchor.

**Regression.** A network is fitted by least squares to the weighted mean (barycentre) of the candidates:
:math:`\sum_k w_k d_k` for SPAR-MLP (:mod:`spar_core.improvement.spar_mlp`), :math:`\sum_k w_k z_k` for SPAR-PROJ
(:mod:`spar_core.improvement.spar_proj`). The candidates and weights are constants, computed once for each refresh,
so no gradient of a value reaches the policy. A refresh draws new states and latents.

Safeguards against a wrong critic may change the weights (:mod:`spar_core.improvement.safeguards`); all are off by
default.

Source: latent self-imitation in SPAR (arXiv 2605.27877). The formulas are this project's reading.
"""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from spar_core.improvement.actors import MEASURED, Inputs
from spar_core.improvement.base import Frozen, Improvement, clipped_candidates
from spar_core.improvement.safeguards import (
    anchor_latent,
    disagreement_about_advantage,
    temperature,
    weigh_with_anchor,
)
from spar_core.improvement.split import Probe, Split
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted
from spar_core.training.loop import minimise
from spar_core.training.networks import per_seed_mean
from spar_core.training.optimiser import DecayingSettings
from spar_core.training.randomness import Minibatches, normal, stream

# States handled at once. K times as many rows go through the networks; on a CPU they stay in its cache.
STATES_AT_ONCE = 256

# Takes observations and anchor actions [S, B, .]; gives the latents [S, B, Z] that candidates are drawn about.
Centre = Callable[[Tensor, Tensor], Tensor]


class SelfImitationSettings(DecayingSettings):
    """Settings of SPAR-MLP, and of every rule that imitates weighted candidates."""

    steps: int = Field(5000, gt=0, description="optimiser steps")
    inputs: Inputs = Field("state_and_anchor", description="what the network sees: state_and_anchor, or state alone")
    weighting: Literal["critic", "equal"] = Field(
        "critic", description="weights of the candidates: softmax of the critic's values, or equal"
    )
    tau: float = Field(0.3, gt=0, description="temperature, in units of the spread of values within a state")
    latent_clip: float = Field(1.0, gt=0, description="c: latents are clipped to [-c, c], in prior standard deviations")
    candidates: int = Field(16, ge=2, description="K, candidates for each state")
    states: PositiveInt = Field(30_000, description="states drawn by a refresh; all training steps if there are fewer")
    refreshes: PositiveInt = Field(1, description="number of draws of states and candidates; 1 draws once")
    spread_floor: float = Field(1e-3, gt=0, description="smallest sigma, in the units of the critic's values")
    disagreement: float = Field(0.0, ge=0, description="eta: flattens weights where the critic's networks disagree")
    anchor_weight: float = Field(0.0, ge=0, lt=1, description="p: prior weight of the anchor as a candidate")
    gate: bool = Field(False, description="deploy the anchor where the critic prefers its action to the corrected one")

    def latents(self, noise: Tensor, centre: Tensor | None) -> Tensor:
        """Latents of the candidates [S, n, Z], from standard normal ``noise``.

        The centre is not used here. A rule that draws about a centre overrides this method (SPAR-PROJ does).
        """
        return noise.clamp(-self.latent_clip, self.latent_clip)


# --- candidates, their weights and barycentres ---


@dataclass(frozen=True)
class Candidates:
    """K weighted candidates at n states of each of S seeds.

    Attributes:
        corrections: [S, n, K, A].
        latents: [S, n, K, Z].
        weights: [S, n, K]; together with ``anchor_weights`` they sum to one.
        anchor_weights: [S, n], weight of the anchor; 0 where the anchor is no candidate.
        anchor_prior: weight of the anchor where the critic values all actions equally.
        spread: [S], sigma, in the units of the critic's values. It is the floor with equal weights.
    """

    corrections: Tensor
    latents: Tensor
    weights: Tensor
    anchor_weights: Tensor
    anchor_prior: float
    spread: Tensor

    @property
    def effective(self) -> Tensor:
        """Effective number of candidates [S, n], 1 / sum of squared weights (Kish 1965)."""
        return 1.0 / (self.weights.square().sum(-1) + self.anchor_weights.square())

    def barycentres(self, flat: bool = False) -> tuple[Tensor, Tensor]:
        """Weighted means of the corrections [S, n, A] and of the latents [S, n, Z].

        With ``flat`` the weights are those of a critic that values all actions equally.
        """
        weights, anchor_weights = self.weights, self.anchor_weights
        if flat:
            weights = torch.full_like(weights, (1.0 - self.anchor_prior) / weights.shape[-1])
            anchor_weights = torch.full_like(anchor_weights, self.anchor_prior)
        latent = (weights.unsqueeze(-1) * self.latents).sum(2)
        if self.anchor_prior > 0:
            latent = latent + anchor_weights.unsqueeze(-1) * anchor_latent(self.corrections, self.latents)
        return (weights.unsqueeze(-1) * self.corrections).sum(2), latent


@torch.no_grad()
def draw_candidates(
    frozen: Frozen,
    settings: SelfImitationSettings,
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
        centre: latents [S, n, Z] that candidates are drawn about; None for 0.
    """
    seeds, n, k, size = len(base), base.shape[1], settings.candidates, frozen.residual.latent_size
    # Filled chunk by chunk, since joining chunks would need the memory twice.
    corrections, latents = base.new_empty(seeds, n, k, base.shape[-1]), base.new_empty(seeds, n, k, size)
    values, anchor_values, doubt = base.new_empty(seeds, n, k), base.new_zeros(seeds, n), base.new_zeros(seeds, n)
    asks = settings.weighting == "critic"
    for start in range(0, n, STATES_AT_ONCE):
        rows = slice(start, start + STATES_AT_ONCE)
        near, near_base = observations[:, rows], base[:, rows]
        shape = (near.shape[1], k)
        noise = normal(generators, math.prod(shape), size).to(base.device)
        z = settings.latents(noise, None if centre is None else centre[:, rows].repeat_interleave(k, dim=1))
        wide, wide_base = near.repeat_interleave(k, dim=1), near_base.repeat_interleave(k, dim=1)
        d = clipped_candidates(frozen, wide, wide_base, z)
        corrections[:, rows], latents[:, rows] = d.unflatten(1, shape), z.unflatten(1, shape)
        values[:, rows] = frozen.values.q(wide, wide_base + d).unflatten(1, shape) if asks else 0.0
        if asks and settings.anchor_weight > 0:
            anchor_values[:, rows] = frozen.values.q(near, near_base)
        if asks and settings.disagreement > 0:
            members = frozen.values.members(wide, wide_base + d).unflatten(-1, shape)
            doubt[:, rows] = disagreement_about_advantage(members, frozen.values.members(near, near_base))
    spread = torch.stack([row.std(dim=-1).median() for row in values]).clamp_min(settings.spread_floor)
    doubts = settings.disagreement * doubt if settings.disagreement > 0 else None
    weights, anchor_weights = weigh(values, anchor_values, doubts, spread, settings.tau, settings.anchor_weight)
    return Candidates(corrections, latents, weights, anchor_weights, settings.anchor_weight, spread)


def weigh(
    values: Tensor, anchor_values: Tensor, doubts: Tensor | None, spread: Tensor, tau: float, anchor_weight: float
) -> tuple[Tensor, Tensor]:
    """Weights of the candidates [S, n, K] and of the anchor [S, n]; together they sum to one.

    Args:
        values: Q_c of the candidates [S, n, K].
        anchor_values: Q_c of the anchor's action [S, n]; not used where ``anchor_weight`` is 0.
        doubts: eta u [S, n]; None for none.
        spread: sigma [S].
        tau: temperature, in units of sigma.
        anchor_weight: the anchor's prior weight p, 0 where the anchor is no candidate.
    """
    temperatures = temperature(tau, spread, doubts)
    if anchor_weight > 0.0:
        return weigh_with_anchor(values - anchor_values.unsqueeze(-1), temperatures, anchor_weight)
    weights = torch.softmax(values / temperatures.unsqueeze(-1), dim=-1)
    return weights, weights.new_zeros(weights.shape[:-1])


# --- what is regressed onto, and the regression ---


@dataclass(frozen=True)
class Targets:
    """What a rule regresses onto, at n states of each of S seeds.

    Attributes:
        observations: [S, n, D], standardised.
        base: [S, n, A], the anchor's actions.
        correction: [S, n, A], barycentre of the candidate corrections.
        latent: [S, n, Z], barycentre of the latents.
    """

    observations: Tensor
    base: Tensor
    correction: Tensor
    latent: Tensor

    def at(self, rows: Tensor, picked: Tensor) -> Targets:
        """The targets at the states ``picked`` [S, B] of the seeds ``rows`` [S, 1]."""
        return Targets(*(values[rows, picked] for values in vars(self).values()))


@torch.no_grad()
def draw_targets(
    context: Context, frozen: Frozen, settings: SelfImitationSettings, refresh: int, centre: Centre | None = None
) -> tuple[Targets, dict[str, list[float]]]:
    """Draw states and candidates for a refresh (about ``centre``, or about 0 for None), and average the candidates.

    All rules of the same seeds get the same draws, so that rules differ only in what they do with them. The second
    value holds metrics of the draw, one value a seed.
    """
    data, train = context.data, torch.as_tensor(context.dataset.train_steps)
    n = min(settings.states, len(train))
    picks = [train[torch.randperm(len(train), generator=stream(s, f"states/{refresh}"))[:n]] for s in context.seeds]
    steps = torch.stack(picks).to(data.observations.device)
    observations = data.observations[data.index[steps]]
    base = torch.cat([frozen.anchor.act_on_steps(data, part) for part in steps.split(STATES_AT_ONCE, 1)], dim=1)
    about = None
    if centre is not None:
        pairs = zip(observations.split(STATES_AT_ONCE, 1), base.split(STATES_AT_ONCE, 1), strict=True)
        about = torch.cat([centre(*pair) for pair in pairs], dim=1)
    generators = [stream(seed, f"latents/{refresh}") for seed in context.seeds]
    drawn = draw_candidates(frozen, settings, observations, base, generators, about)
    info = {
        "improvement/effective_candidates": [row.mean().item() for row in drawn.effective],
        "improvement/anchor_weight": [row.mean().item() for row in drawn.anchor_weights],
        "improvement/value_spread": drawn.spread.tolist(),
    }
    return Targets(observations, base, *drawn.barycentres()), info


class SelfImitation(Improvement):
    """A rule whose network is regressed onto barycentres of candidates. Rules say which, in :meth:`error`."""

    @classmethod
    @abstractmethod
    def at_step_zero(cls, context: Context, frozen: Frozen, settings: Any) -> Self:
        """The untrained rule."""

    @abstractmethod
    def error(self, targets: Targets) -> Tensor:
        """The regression error, [S, B, .]: the network's answer minus its target."""

    @abstractmethod
    def wanted(self, targets: Targets) -> Tensor:
        """The corrections [S, n, A] at which :meth:`error` is 0. A bounded network may not reach all of them."""

    def centre(self) -> Centre | None:
        """What candidates of later refreshes are drawn about; None for 0."""
        return None

    @classmethod
    def fit(cls, context: Context, frozen: Frozen, settings: SelfImitationSettings) -> Fitted:
        rule = cls.at_step_zero(context, frozen, settings)
        adam = settings.adam(rule.network)
        bounds = [round(i * settings.steps / settings.refreshes) for i in range(settings.refreshes + 1)]
        first_norm: list[float] = []
        for refresh, (start, end) in enumerate(itertools.pairwise(bounds)):
            targets, drawn = draw_targets(context, frozen, settings, refresh, rule.centre() if refresh else None)
            first_norm = first_norm or rule._norms(targets)
            states, purpose = torch.arange(targets.base.shape[1]), f"improvement/batches/{refresh}"
            batches = Minibatches(states, context.seeds, settings.batch_size, purpose, context.device)

            def loss(picked: Tensor, targets: Targets = targets) -> tuple[Tensor, dict[str, Tensor]]:
                return imitation_loss(rule, targets.at(context.rows, picked))

            name = f"improvement-{refresh}"
            draws, total = {"batches": batches}, settings.steps
            minimise(loss, context, adam, draws, name=name, steps=end - start, before=start, total=total)
        metrics = {
            "improvement/step0_norm": first_norm,
            "improvement/correction_norm": rule._norms(targets),
            **drawn,
            "improvement/loss": context.report.last("improvement/loss"),
        }
        return Fitted(rule.network.state("network", len(context.seeds)), metrics, context.report.rows)

    @torch.no_grad()
    def _norms(self, targets: Targets) -> list[float]:
        """Mean length of the correction over the first states of each seed."""
        observations, base = (part[:, :MEASURED].contiguous() for part in (targets.observations, targets.base))
        return [row.norm(dim=-1).mean().item() for row in self.correction(observations, base)]

    @classmethod
    def follows_critic(cls, settings: SelfImitationSettings) -> bool:
        return settings.weighting != "equal"

    def critic_term(self, probe: Probe, step: int) -> Tensor:
        """Loss at the critic's barycentre minus loss at the barycentre of equal weights."""
        at, settings = (probe.observations, probe.base), self.settings
        generators = [stream(probe.seed, "diagnosis/probe_latents")]
        centre = self.centre() if step > round(settings.steps / settings.refreshes) else None
        if centre is not None:
            drawn = draw_candidates(self.frozen, settings, *at, generators, centre(*at).detach())
        else:
            # Candidates about 0 are the same at every step.
            drawn = probe.drawn = probe.drawn or draw_candidates(self.frozen, settings, *at, generators)
        ours, flat = (imitation_loss(self, Targets(*at, *drawn.barycentres(flat)))[0] for flat in (False, True))
        return ours - flat

    @classmethod
    def split(cls, context: Context, frozen: Frozen, settings: SelfImitationSettings) -> Split:
        rule = cls.at_step_zero(context, frozen, settings)
        equal = settings.model_copy(update={"weighting": "equal"})
        flat, ours = (draw_targets(context, frozen, each, 0)[0] for each in (equal, settings))
        wanted = (rule.wanted(flat), rule.wanted(ours))
        total, fitting = (lambda: imitation_loss(rule, ours)[0]), (lambda: imitation_loss(rule, flat)[0])
        return Split(rule, total, fitting, wanted, ours.observations)


def imitation_loss(rule: SelfImitation, targets: Targets) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean squared error of a rule to its targets, summed over seeds."""
    error = per_seed_mean(rule.error(targets).square())
    return error.sum(), {"improvement/loss": error.detach()}
