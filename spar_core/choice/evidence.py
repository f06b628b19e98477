r"""What logged data alone say for and against a candidate policy, beside the anchor that it would replace.

All on held-out episodes, one number a seed. With :math:`\pi` the candidate, :math:`a_b` the anchor's action,
:math:`Q_c` the study's critic and :math:`Q_m` its networks:

* ``critic_gain``: mean of :math:`Q_c(s, \pi(s)) - Q_c(s, a_b)`, in units of the critic's scaled returns; ``_error`` is
  its standard error over episodes;
* ``doubt``: mean of :math:`\mathrm{std}_m (Q_m(s, \pi(s)) - Q_m(s, a_b))`, what the critic's networks disagree about;
* ``fqe_gain``: mean over episode starts of the fitted-Q estimate of :math:`\pi` minus that of the anchor, a discounted
  return in the dataset's own rewards; ``_error`` over episodes; ``fqe_clipped`` the share of clipped backups;
* ``off_support``: share of states where the action is off support (:mod:`spar_core.evaluation.support`); the anchor's
  share is measured too;
* ``reach``: mean length of the correction, as a share of the length of the radius.

And of the critic, whatever the candidate, its one-sided calibration (:mod:`spar_core.critics.calibration`).

Standard errors are over held-out episodes as units, since steps of one episode are not independent. They say how well
the mean over *these logged* states is known, and nothing of how wrong critic and estimate are beyond them.
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
    """Of one candidate and one seed; the module says what each number is."""

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
        """By name."""
        return asdict(self)


@dataclass(frozen=True)
class Trust:
    """A critic's calibration, for one seed: gaps in standard deviations of the held-out returns; NaN where unknown."""

    gap_best_tenth: float
    gap_before_termination: float


def trust_in(critic: Critic, context: Context) -> list[Trust]:
    """Calibration of the critic of each seed; NaN where the critic has no discount or no scale of rewards."""
    settings = getattr(critic, "settings", None)
    if not hasattr(settings, "discount") or not hasattr(settings, "return_range"):
        return [Trust(float("nan"), float("nan"))] * len(context.seeds)
    scale = reward_scale(context.dataset, settings.return_range)
    found = calibrate(critic, context, settings.discount, scale)
    pairs = zip(found["critic/gap_best_tenth"], found["critic/gap_before_termination"], strict=True)
    return [Trust(*pair) for pair in pairs]


def gather(
    context: Context, anchor: Improvement, candidates: Mapping[str, Improvement], states: int, fqe: FQESettings
) -> dict[str, list[Evidence]]:
    """Evidence for each candidate, one entry a seed.

    Args:
        context: candidates are measured on its held-out episodes; fitted-Q evaluation is fitted to the others.
        anchor: the rule that corrects nothing, of the same frozen parts.
        candidates: restored rules of the seeds by name; their frozen parts hold the critic.
        states: held-out states at most.
        fqe: settings of fitted-Q evaluation.

    Raises:
        SparError: fitted-Q evaluation diverged.
    """
    everyone = {"anchor": anchor, **candidates}
    acts = [_act(rule, len(context.seeds)) for rule in everyone.values()]
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
    """Held-out states [B], and what does not depend on a candidate."""

    observations: Tensor
    episode: np.ndarray
    base: Tensor
    similar: np.ndarray
    yardstick: np.ndarray
    anchor_off: list[float]

    @classmethod
    def of(cls, context: Context, anchor: Improvement, states: int) -> _View:
        dataset, seeds = context.dataset, len(context.seeds)
        steps = heldout_steps(dataset, states)
        plain = dataset.observations[dataset.observation_index[steps]]
        observations = torch.as_tensor(plain).to(context.device)
        base = in_chunks(_act(anchor, seeds), observations)
        similar = Support(dataset).similar(plain)
        yardstick = Support.distance(similar, dataset.actions[steps])
        off = [float(off_support(Support.distance(similar, a), yardstick).mean()) for a in base.cpu().numpy()]
        return cls(observations, dataset.episode[steps], base, similar, yardstick, off)

    @torch.no_grad()
    def evidence(self, rule: Improvement, estimate: Estimates, anchor_estimate: Estimates) -> list[Evidence]:
        """The evidence for one candidate, one entry a seed."""
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
        """Gain in Q_c, and disagreement about the gain, both [S, B]."""
        critic = rule.frozen.critic
        assert critic is not None
        gains, doubts = [], []
        for start in range(0, actions.shape[1], CHUNK):
            rows = slice(start, start + CHUNK)
            observations = self.observations[rows].expand(len(actions), -1, -1)
            there, base = actions[:, rows], self.base[:, rows]
            gains.append(critic.q(observations, there) - critic.q(observations, base))
            doubts.append(spread_of(critic.members(observations, there) - critic.members(observations, base)))
        return torch.cat(gains, dim=1), torch.cat(doubts, dim=1)


def by_episode(values: np.ndarray, episode: np.ndarray) -> tuple[float, float]:
    """Mean over episodes of the mean of ``values`` [B] within each, and its standard error; 0 for one episode."""
    _, rows = np.unique(episode, return_inverse=True)
    means = np.bincount(rows, weights=values.astype(np.float64)) / np.bincount(rows)
    error = means.std(ddof=1) / np.sqrt(len(means)) if len(means) > 1 else 0.0
    return float(means.mean()), float(error)
