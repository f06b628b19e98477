r"""Re-anchoring: held-out steps decide whether an improved policy may become the next anchor.

A round has a policy :math:`\pi` that corrects the anchor :math:`a_b`. Let there be :math:`n` held-out steps
:math:`(s_i, a_i)`, and let :math:`\delta(s, a)` be the distance of an action to the logged actions of similar training
states (:mod:`spar_core.evaluation.support`). The policy is accepted if

.. math::
   \frac{1}{n} \big|\{i : \delta(s_i, \pi(s_i)) > q\}\big| \le \epsilon, \qquad
   q = \mathrm{quantile}_{0.95}\, \delta(s_i, a_i),

.. math::
   \mathrm{low}\; \mathbb{E}_e \, \mathbb{E}_{i \in e} \big[ Q_c(s_i, \pi(s_i)) - Q_c(s_i, a_b(s_i)) \big] \ge 0,

where :math:`e` runs over held-out episodes and low is the lower end of a Student t-interval over them.

* **Support**: held-out logged actions, which no network has seen, show how far actions of the data lie from their
  neighbours. The policy may act beyond their quantile in at most a share :math:`\epsilon` of the steps. Distances are
  to *logged* actions in every round, so small moves of many rounds add up.
* **Gain**: the critic must not expect a loss. The policy was fitted to this critic, so this criterion can reveal a
  failed fit and cannot confirm a gain.

Source: none. The paper (arXiv 2605.27877) names anchors that do not evolve as an open point, and rounds and this rule
are this project's own. Thomas, Theocharous and Ghavamzadeh 2015 ("High confidence policy improvement") accept a policy
by a lower bound too; their bound is on returns, and this one is on a critic's opinion.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from spar_core.data.dataset import Dataset
from spar_core.evaluation.statistics import Estimate, mean_interval, seed_means
from spar_core.evaluation.support import QUANTILE, Support, off_support
from spar_core.evenly import evenly
from spar_core.settings import Settings

# Standardised observations [B, D] to actions [B, A] in [-1, 1], and both to values [B], of one seed.
Act = Callable[[Tensor], Tensor]
Value = Callable[[Tensor, Tensor], Tensor]


class ReanchoringSettings(Settings):
    """The ``reanchoring`` section of ``params.yaml``."""

    teacher: Literal["seed", "committee"] = Field(
        "seed", description="whose policy is distilled for a seed: its own, or that of its group's committee"
    )
    states: PositiveInt = Field(2000, description="held-out steps that are examined, at most")
    # Logged actions are off support at 5% of the steps, by definition.
    largest_share: float = Field(
        0.05, ge=0, le=1, description="share of them at which the policy may act off the support, at most"
    )
    confidence: float = Field(
        0.95, gt=0, lt=1, description="confidence of the interval of the critic's gain; its low end must be >= 0"
    )


@dataclass(frozen=True)
class View:
    """Held-out steps, and the logged actions near them; the same for every seed.

    Attributes:
        observations: [B, D] standardised.
        episodes: [B] number of each step's episode.
        similar: [B, k, A] logged actions of similar training states, in [-1, 1].
        logged: [B] distance of the step's own logged action to the nearest similar one.
    """

    observations: Tensor
    episodes: np.ndarray
    similar: np.ndarray
    logged: np.ndarray

    @classmethod
    def of(cls, dataset: Dataset, settings: ReanchoringSettings) -> View:
        """The view of held-out steps that are spread evenly over the dataset."""
        steps = evenly(dataset.heldout_steps, settings.states)
        observations = dataset.observations[dataset.observation_index[steps]]
        similar = Support(dataset).similar(observations)
        logged = Support.distance(similar, dataset.actions[steps])
        return cls(torch.as_tensor(observations), dataset.episode_number[steps], similar, logged)


@dataclass(frozen=True)
class Evidence:
    """What held-out steps show of one seed's policy. Distances are in units of the action box [-1, 1].

    Attributes:
        off_support_share: share of the steps at which the policy is off support.
        yardstick: distance to the logged actions of similar states beyond which an action is off support.
        policy_distance: median distance of the policy's actions to the logged actions of similar states.
        logged_distance: median distance of the logged actions to the logged actions of similar states.
        gain: the critic's value of the policy's action minus its value of the anchor's action, in the critic's scaled
            rewards. It is a mean over episodes, and ``n`` is their number.
        states: number of steps.
    """

    off_support_share: float
    yardstick: float
    policy_distance: float
    logged_distance: float
    gain: Estimate
    states: int

    def to_dict(self) -> dict[str, Any]:
        """The evidence as a flat mapping, as ``decision.json`` holds it."""
        gain = {"critic_gain": self.gain.value, "critic_gain_low": self.gain.low, "critic_gain_high": self.gain.high}
        own = {name: value for name, value in vars(self).items() if name != "gain"}
        return {**own, **gain, "episodes": self.gain.n}


@dataclass(frozen=True)
class Decision:
    """Whether a policy may become the next anchor, with a reason in words for each criterion."""

    accepted: bool
    reasons: tuple[str, ...]


def gather(view: View, policy: Act, anchor: Act, value: Value, settings: ReanchoringSettings) -> Evidence:
    """Gather the evidence on one seed's policy.

    Args:
        view: held-out steps of the dataset.
        policy: the policy that would be the next anchor.
        anchor: the anchor that the policy corrects.
        value: the critic's conservative values.
        settings: give the confidence of the interval.
    """
    actions, base = policy(view.observations), anchor(view.observations)
    away = Support.distance(view.similar, actions.cpu().numpy())
    gains = (value(view.observations, actions) - value(view.observations, base)).double().cpu().numpy()
    return Evidence(
        float(off_support(away, view.logged).mean()),
        float(np.quantile(view.logged, QUANTILE)),
        float(np.median(away)),
        float(np.median(view.logged)),
        mean_interval(list(seed_means(view.episodes, gains).values()), settings.confidence),
        len(away),
    )


def decide(evidence: Evidence, settings: ReanchoringSettings) -> Decision:
    """Apply both criteria; NaN meets neither. A single episode has no interval, so its gain itself must be >= 0."""
    supported = evidence.off_support_share <= settings.largest_share
    low = evidence.gain.value if evidence.gain.low is None else evidence.gain.low
    gains = low >= 0
    episodes = f"{evidence.gain.n} held-out episode{'' if evidence.gain.n == 1 else 's'}"
    reasons = (
        f"At {100 * evidence.off_support_share:.1f}% of {evidence.states} held-out steps the policy acts further from "
        f"the logged actions of similar states than {100 * QUANTILE:g}% of held-out logged actions do, "
        f"{'within' if supported else 'beyond'} the limit of {100 * settings.largest_share:g}%.",
        f"The critic values its actions {evidence.gain.value:+.3g} over the anchor's, with a lower end of {low:+.3g} "
        f"over {episodes}: {'it expects no loss' if gains else 'a loss is not ruled out'}.",
    )
    return Decision(bool(supported and gains), reasons)


def stopped(number: int) -> Decision:
    """The decision on a seed that was refused in an earlier round, ``number``."""
    return Decision(False, (f"Stopped at round {number}: the seed keeps the anchor that it had then.",))
