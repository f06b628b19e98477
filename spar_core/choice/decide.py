"""From evidence to a choice: the anchor, unless a candidate passes every test.

1. **Trust.** A critic whose values lie far below the observed returns of the best held-out episodes, or far above them
   shortly before terminations, has not converged, and every rule that trusts it may ruin the anchor. Nothing that it
   weighed is deployed then. Passing is necessary; it certifies nothing.
2. **Tests.** A candidate is refused where its gain in the critic's own eyes is not positive by ``errors`` standard
   errors after ``doubt`` times what the critic's networks disagree about; where fitted-Q evaluation puts it below the
   anchor by more than ``fqe_margin`` of the anchor's own estimate (fits err by half of that and more); and where
   it is off support at more states than the anchor by more than ``off_support``.
3. **Preference.** Greed moves a policy far for little: of those left whose gain after doubt is within ``slack`` of the
   largest, the one that moves least. What moves as little, within ``ties``, goes to the candidate that comes first in
   the evidence; ``auto`` puts those of its ``preferred`` kind first, SPAR-PROJ, which cannot leave the decoder's image.

Each step is this project's reading of the paper's open point "no automatic choice of the variant". What it costs
against the best choice in hindsight is measured in the study ``choice``.
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

    # Standard deviations of held-out returns by which Q_c may lie below the best episodes' returns ...
    largest_underestimate: float = Field(1.0, gt=0)
    # ... and above what was observed shortly before terminations.
    largest_overestimate: float = Field(1.0, gt=0)
    errors: float = Field(2.0, ge=0)
    doubt: float = Field(1.0, ge=0)
    fqe_margin: float = Field(0.5, ge=0)
    off_support: float = Field(0.05, ge=0, le=1)
    slack: float = Field(0.1, ge=0, lt=1)
    ties: float = Field(0.1, ge=0)


@dataclass(frozen=True)
class Choice:
    """What is deployed for one seed, and why: a sentence a step, the last one about the choice itself."""

    name: str
    reasons: tuple[str, ...]


def decide(trust: Trust, evidence: Mapping[str, Evidence], settings: DecisionSettings) -> Choice:
    """Choose among the candidates of one seed, or the anchor."""
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
    """Why the critic is not trusted; None where it is, or where nothing is known of it."""
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
    """Why a candidate is not deployed; None where every test is passed."""
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
    """Lower end of the gain in the critic's eyes: less its standard errors, less what its networks disagree about."""
    return found.critic_gain - settings.errors * found.critic_gain_error - settings.doubt * found.doubt
