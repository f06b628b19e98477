"""From evidence to a choice: the anchor, unless a candidate passes every test.

1. **Trust.** A critic whose values lie far below the observed returns of the best held-out episodes, or far above them
   shortly before terminations, has not converged, and every rule that trusts it may ruin the anchor. Nothing that it
   weighed is deployed then. Passing is necessary; it certifies nothing.
2. **Tests.** A candidate is refused where its gain in the critic's own eyes is not positive by ``errors`` standard
   errors after ``doubt`` times what the critic's networks disagree about; where fitted-Q evaluation says that it is
   worse than the anchor by as many errors; and where it is off support at more states than the anchor by more than
   ``off_support``.
3. **Preference.** Among those left that are off support least (within ``ties`` of the least), the one with the largest
   gain in the critic's eyes after doubt: staying on support comes first, and the critic orders what is level.

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
    off_support: float = Field(0.05, ge=0, le=1)
    ties: float = Field(0.01, ge=0, le=1)


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
    least = min(found.off_support for found in passed.values())
    level = {name: found for name, found in passed.items() if found.off_support <= least + settings.ties}
    chosen = max(level, key=lambda name: doubted_gain(level[name], settings))
    best = level[chosen]
    reasons.append(
        f"{chosen} is chosen: off support at {best.off_support:.1%} of the held-out states (the least is {least:.1%}), "
        f"with a gain of {best.critic_gain:.3g} in the critic's eyes, the largest after doubt of "
        f"{len(level)} candidate{'s' if len(level) > 1 else ''} level in support."
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
    estimated = found.fqe_gain + settings.errors * found.fqe_gain_error
    if estimated < 0:
        return f"fitted-Q evaluation puts it {-found.fqe_gain:.3g} below the anchor"
    more = found.off_support - found.off_support_anchor
    if more > settings.off_support:
        return f"it is off support at {more:.1%} more states than the anchor"
    return None


def doubted_gain(found: Evidence, settings: DecisionSettings) -> float:
    """Lower end of the gain in the critic's eyes: less its standard errors, less what its networks disagree about."""
    return found.critic_gain - settings.errors * found.critic_gain_error - settings.doubt * found.doubt
