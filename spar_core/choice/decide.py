"""From evidence to a choice: the anchor, unless a candidate passes every test.

1. **Trust.** A critic whose values lie far below the observed returns of the best held-out episodes, or far above them
   shortly before terminations, has not converged, and every rule that trusts it may ruin the anchor. Then the anchor
   is kept. Passing this step is necessary; it certifies nothing.
2. **Tests.** A candidate is refused in three cases: its gain in the critic's eyes, less ``doubt`` times the networks'
   disagreement about it, does not exceed 0 by ``errors`` standard errors; fitted-Q evaluation puts it below the anchor
   by more than ``fqe_margin`` of the anchor's own estimate (such estimates err by half of that and more); or it is off
   support at more states than the anchor, by more than ``off_support``.
3. **Preference.** The last bit of gain often moves a policy far. So among the candidates whose gain after doubt is
   within ``slack`` of the largest, the one that moves least is chosen. Where several move equally little, within
   ``ties``, the one that comes first in the evidence is chosen; ``auto`` puts its ``preferred`` kind first, SPAR-PROJ,
   which cannot leave the decoder's image.

Each step is this project's reading of the paper's open point "no automatic choice of the variant". The study ``choice``
measures what the choice costs against the best one in hindsight.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import Field

from spar_core.choice.evidence import Evidence, Trust
from spar_core.settings import Settings

ANCHOR = "anchor"


class DecisionSettings(Settings):
    """The thresholds of a choice."""

    largest_underestimate: float = Field(
        1.0, gt=0, description="the critic on the best episodes below their returns, in standard deviations, at most"
    )
    largest_overestimate: float = Field(
        1.0, gt=0, description="the critic before terminations above the returns there, in standard deviations, at most"
    )
    errors: float = Field(2.0, ge=0, description="standard errors by which a gain has to exceed zero")
    doubt: float = Field(
        1.0, ge=0, description="weight, against the gain, of what the critic's networks disagree about"
    )
    fqe_margin: float = Field(
        0.5, ge=0, description="fitted-Q estimate below the anchor's that is accepted, as a share of the anchor's"
    )
    off_support: float = Field(
        0.05, ge=0, le=1, description="share of states off support, beyond the anchor's own share, that is accepted"
    )
    slack: float = Field(0.1, ge=0, lt=1, description="gains up to this share below the largest count as equal")
    ties: float = Field(0.1, ge=0, description="corrections up to this share longer than the shortest count as equal")


@dataclass(frozen=True)
class Choice:
    """What is deployed for one seed, and why.

    Attributes:
        name: of a candidate, or :data:`ANCHOR`.
        reasons: one sentence for each step of the decision; the last one is about the choice itself.
    """

    name: str
    reasons: tuple[str, ...]


def decide(trust: Trust, evidence: Mapping[str, Evidence], settings: DecisionSettings) -> Choice:
    """Choose one of the candidates of one seed, or the anchor.

    Args:
        trust: calibration of the critic.
        evidence: on each candidate; the order breaks ties.
        settings: the thresholds.
    """
    reasons = []
    doubts = distrust(trust, settings)
    if doubts is not None:
        return Choice(ANCHOR, (doubts, "The anchor is kept: nothing that this critic weighed is trusted."))
    passed: dict[str, Evidence] = {}
    for name, found in evidence.items():
        refusal = refuse(found, settings)
        if refusal is None:
            passed[name] = found
        else:
            reasons.append(f"{name} is refused: {refusal}.")
    if not passed:
        return Choice(ANCHOR, (*reasons, "The anchor is kept: no candidate passed."))
    most = max(doubted_gain(found, settings) for found in passed.values())
    level = {n: found for n, found in passed.items() if doubted_gain(found, settings) >= (1 - settings.slack) * most}
    least = min(found.reach for found in level.values())
    chosen = next(name for name in evidence if name in level and level[name].reach <= (1 + settings.ties) * least)
    best = level[chosen]
    short = "least" if best.reach == least else f"as little as the least ({least:.3g})"
    reasons.append(
        f"{chosen} is chosen: its gain in the critic's eyes is {doubted_gain(best, settings):.3g} after doubt, of "
        f"{most:.3g} at most, and of the {len(level)} that come within {settings.slack:.0%} of that it moves {short}, "
        f"by {best.reach:.3g} of the radius."
    )
    return Choice(chosen, tuple(reasons))


def distrust(trust: Trust, settings: DecisionSettings) -> str | None:
    """Why the critic is not trusted. None where it is trusted, or where its calibration is unknown."""
    low, high = trust.gap_best_tenth, trust.gap_before_termination
    if not math.isnan(low) and low < -settings.largest_underestimate:
        return (
            f"On the best held-out episodes the critic lies {-low:.2f} standard deviations below the observed returns "
            f"(allowed: {settings.largest_underestimate:g}): it has not converged."
        )
    if not math.isnan(high) and high > settings.largest_overestimate:
        return (
            f"Shortly before terminations the critic lies {high:.2f} standard deviations above the observed returns "
            f"(allowed: {settings.largest_overestimate:g}): it does not see failures coming."
        )
    return None


def refuse(found: Evidence, settings: DecisionSettings) -> str | None:
    """Why a candidate is not deployed. None where it passes every test."""
    gain = doubted_gain(found, settings)
    if not gain > 0:
        return f"its gain in the critic's eyes is {gain:.3g} after doubt, not above 0"
    if found.fqe_gain < -settings.fqe_margin * abs(found.fqe - found.fqe_gain):
        return f"fitted-Q evaluation puts it {-found.fqe_gain:.3g} below the anchor"
    more = found.off_support - found.off_support_anchor
    if more > settings.off_support:
        return f"it is off support at {more:.1%} more states than the anchor"
    return None


def doubted_gain(found: Evidence, settings: DecisionSettings) -> float:
    """The gain in the critic's eyes, less its standard errors and less the networks' disagreement about it."""
    return found.critic_gain - settings.errors * found.critic_gain_error - settings.doubt * found.doubt
