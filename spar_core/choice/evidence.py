r"""What logged data alone say for and against a candidate policy, beside the anchor that it would replace.

Everything is measured on held-out episodes, one number a seed. With :math:`\pi` the candidate, :math:`a_b` the anchor's
action, :math:`Q_c` the study's critic and :math:`Q_m` its networks:

* ``critic_gain``: mean of :math:`Q_c(s, \pi(s)) - Q_c(s, a_b)`, in units of the critic's scaled returns; ``_error`` is
  its standard error over episodes;
* ``doubt``: mean of :math:`\mathrm{std}_m (Q_m(s, \pi(s)) - Q_m(s, a_b))`, the disagreement of the critic's networks
  about the gain;
* ``fqe_gain``: mean over episode starts of the fitted-Q estimate of :math:`\pi` minus that of the anchor, a discounted
  return in the dataset's own rewards; ``_error`` is its standard error over episodes; ``fqe_clipped`` is the share of
  steps after which the estimate leaves what rewards allow;
* ``off_support``: share of states where the action is off support (:mod:`spar_core.evaluation.support`); the anchor's
  share is ``off_support_anchor``;
* ``reach``: mean length of the correction, as a share of the length of the radius.

One more piece of evidence concerns the critic alone: its calibration (:mod:`spar_core.critics.calibration`).

Standard errors take held-out episodes as units, since steps of one episode are not independent. They say how well
the mean over *these logged* states is known, and nothing about how wrong critic and estimate are beyond them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from spar_core.critics.base import Critic, reward_scale, spread_of
from spar_core.critics.calibration import calibrate
from spar_core.evaluation.estimation import heldout_steps
from spar_core.evaluation.fqe import ActOfSeeds, Estimates, FQESettings, evaluate_in_turn, in_chunks
from spar_core.evaluation.support import Support, off_support
from spar_core.improvement.base import Improvement
from spar_core.training.context import Context
from spar_core.training.networks import CHUNK


@dataclass(frozen=True)
class Evidence:
    """Evidence on one candidate for one seed. The module's docstring defines each number."""

    critic_gain: float
    critic_gain_error: float
    doubt: float
    fqe: float
    fqe_gain: float
    fqe_gain_error: float
    fqe_clipped: float
    off_support: float
    off_support_anchor: float
    reach: float

    def numbers(self) -> dict[str, float]:
        """All numbers by name."""
        return asdict(self)


@dataclass(frozen=True)
class Trust:
    """A critic's calibration for one seed: gaps in standard deviations of the held-out returns, NaN where unknown."""

    gap_best_tenth: float
    gap_before_termination: float


def trust_in(critic: Critic, context: Context) -> list[Trust]:
    """Calibration of each seed's critic. It is NaN for a critic without settings of its discount and reward scale."""
    settings = getattr(critic, "settings", None)
    discount, return_range = getattr(settings, "discount", None), getattr(settings, "return_range", None)
    if discount is None or return_range is None:
        return [Trust(float("nan"), float("nan"))] * len(context.seeds)
    found = calibrate(critic, context, discount, reward_scale(context.dataset, return_range))
    pairs = zip(found["critic/gap_best_tenth"], found["critic/gap_before_termination"], strict=True)
    return [Trust(*pair) for pair in pairs]


def gather(
    context: Context, anchor: Improvement, candidates: Mapping[str, Improvement], states: int, fqe: FQESettings
) -> dict[str, list[Evidence]]:
    """Evidence for each candidate, one entry a seed.

    Args:
        context: evidence is measured on its held-out episodes; fitted-Q evaluation is fitted to the others. Its
            reporter counts one unit for each step of fitted-Q evaluation and seed.
        anchor: the rule that corrects nothing, of the same frozen parts.
        candidates: restored rules of the seeds by name; their frozen parts hold the critic.
        states: held-out states that are measured, at most.
        fqe: settings of fitted-Q evaluation.

    Raises:
        SparError: fitted-Q evaluation diverged.
    """
    acts = [_act(rule, len(context.seeds)) for rule in (anchor, *candidates.values())]
    estimates = evaluate_in_turn(context, acts, fqe)
    anchor_estimate = next(estimates)
    view = _View.of(context, anchor, states)
    return {
        name: view.evidence(rule, estimate, anchor_estimate)
        for (name, rule), estimate in zip(candidates.items(), estimates, strict=True)
    }


def _act(rule: Improvement, seeds: int) -> ActOfSeeds:
    """The policies of all seeds at the same observations."""
    return lambda observations: rule.act(observations.expand(seeds, -1, -1))


@dataclass(frozen=True)
class _View:
    """Held-out states [B], and what is known there before any candidate is looked at.

    Attributes:
        observations: [B, D], standardised.
        episode: [B], the number of each state's episode.
        base: [S, B, A], the anchor's actions.
        similar: [B, k, A], logged actions of similar states.
        yardstick: [B], distance of the logged action to those.
        anchor_off: [S], share of states where the anchor's action is off support.
    """

    observations: Tensor
    episode: np.ndarray
    base: Tensor
    similar: np.ndarray
    yardstick: np.ndarray
    anchor_off: list[float]

    @classmethod
    def of(cls, context: Context, anchor: Improvement, states: int) -> _View:
        dataset = context.dataset
        steps = heldout_steps(dataset, states)
        plain = dataset.observations[dataset.observation_index[steps]]
        observations = torch.as_tensor(plain).to(context.device)
        base = in_chunks(_act(anchor, len(context.seeds)), observations)
        similar = Support(dataset).similar(plain)
        yardstick = Support.distance(similar, dataset.actions[steps])
        off = [float(off_support(Support.distance(similar, a), yardstick).mean()) for a in base.cpu().numpy()]
        return cls(observations, dataset.episode[steps], base, similar, yardstick, off)

    @torch.no_grad()
    def evidence(self, rule: Improvement, estimate: Estimates, anchor_estimate: Estimates) -> list[Evidence]:
        """Evidence on one candidate, one entry a seed."""
        seeds = len(self.base)
        actions = in_chunks(_act(rule, seeds), self.observations)
        gains, doubts = self._critic(rule, actions)
        radius = rule.frozen.residual.radius.norm(dim=-1)
        found = []
        for row in range(seeds):
            gain, error = by_episode(gains[row].cpu().numpy(), self.episode)
            starts = np.subtract(estimate.at_starts[row], anchor_estimate.at_starts[row])
            fqe_gain, fqe_error = by_episode(starts, np.arange(len(starts)))
            distance = Support.distance(self.similar, actions[row].cpu().numpy())
            found.append(
                Evidence(
                    gain,
                    error,
                    float(doubts[row].mean()),
                    estimate.values[row],
                    fqe_gain,
                    fqe_error,
                    estimate.clipped[row],
                    float(off_support(distance, self.yardstick).mean()),
                    self.anchor_off[row],
                    float((actions[row] - self.base[row]).norm(dim=-1).mean() / radius[row]),
                )
            )
        return found

    def _critic(self, rule: Improvement, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Gain in Q_c, and the networks' disagreement about it, both [S, B]."""
        critic = rule.frozen.values
        gains, doubts = [], []
        for start in range(0, actions.shape[1], CHUNK):
            rows = slice(start, start + CHUNK)
            observations = self.observations[rows].expand(len(actions), -1, -1)
            there, base = actions[:, rows], self.base[:, rows]
            gains.append(critic.q(observations, there) - critic.q(observations, base))
            doubts.append(spread_of(critic.members(observations, there) - critic.members(observations, base)))
        return torch.cat(gains, dim=1), torch.cat(doubts, dim=1)


def by_episode(values: np.ndarray, episode: np.ndarray) -> tuple[float, float]:
    """Mean over episodes of the mean of ``values`` [B] within each, and its standard error (0 for one episode)."""
    _, rows = np.unique(episode, return_inverse=True)
    means = np.bincount(rows, weights=values.astype(np.float64)) / np.bincount(rows)
    error = means.std(ddof=1) / np.sqrt(len(means)) if len(means) > 1 else 0.0
    return float(means.mean()), float(error)
