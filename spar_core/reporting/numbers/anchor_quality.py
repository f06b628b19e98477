"""How much does a rule's result depend on the anchor it starts from? One analysis per dataset and critic.

In every line and correlation an anchor is one point: its mean return over seeds. Returns and gains are in the
environment's own reward units; diagnostics are means over seeds, in their own units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from spar_core.evaluation.statistics import Estimate, mean_interval
from spar_core.reporting.config import ReportSettings
from spar_core.reporting.numbers.cells import Rule
from spar_core.reporting.numbers.tables import Summary
from spar_core.reporting.numbers.trend import (
    Added,
    Line,
    RankCorrelation,
    Span,
    added_share,
    explained_share,
    fit_line,
    rank_correlation,
)

# With fewer anchors there is no trend.
FEWEST_ANCHORS = 3
# What may explain a gain: the anchor's own return, and two measures of how well the anchor clones the data.
PREDICTORS = ("return", "heldout_mse", "coverage_distance")
DIAGNOSTICS = (
    "heldout_mse",
    "coverage_distance",
    "modes_missed",
    "bimodal_share",
    "heldout_log_density",
    "parameters",
)


@dataclass(frozen=True)
class AnchorRow:
    """One anchor; ``number`` is its rank by return, lowest first. A missing diagnostic has no key."""

    number: int
    name: str
    summary: Summary
    diagnostics: dict[str, float]

    @property
    def returns(self) -> Estimate:
        """Mean return of the anchor over seeds."""
        return self.summary.returns

    def quantity(self, name: str) -> float | None:
        """The value of a predictor: ``return``, or a diagnostic of the anchor."""
        return self.returns.value if name == "return" else self.diagnostics.get(name)


@dataclass(frozen=True)
class Explanation:
    """How one property of the anchors relates to the gain, over the ``n`` anchors that have both.

    Attributes:
        predictor: one of ``PREDICTORS``.
        share: R^2 of a straight line.
        rank: rank correlation.
        beyond_return: what the property adds to the anchor's return; None for the return itself.
    """

    predictor: str
    n: int
    share: float | None
    rank: RankCorrelation | None
    beyond_return: Added | None


@dataclass(frozen=True)
class RuleTrend:
    """One rule over the anchors that it was run on.

    Attributes:
        points: each anchor with the rule's summary on it.
        mean_gain: mean over all these anchors.
        mean_repair, mean_improvement: means over the ``split_anchors`` anchors on which the gain has both parts.
        line: least-squares line of the rule's return over the anchor's return.
        crossing: the anchor return at which the line crosses the identity, where the gain is zero.
        explanations: one entry per predictor.
        confidence: coverage of the intervals.
    """

    rule: str
    points: tuple[tuple[AnchorRow, Summary], ...]
    mean_gain: Estimate | None
    mean_repair: Estimate | None
    mean_improvement: Estimate | None
    split_anchors: int
    line: Line | None
    crossing: Span | None
    explanations: tuple[Explanation, ...]
    confidence: float

    def anchors(self, direction: int) -> list[AnchorRow]:
        """The anchors whose gain is shown to be above zero (1), below zero (-1), or neither (0)."""
        return [anchor for anchor, ours in self.points if ours.gain and ours.gain.direction == direction]

    @property
    def lowest(self) -> float:
        """Lowest return of an anchor."""
        return min(anchor.returns.value for anchor, _ in self.points)

    @property
    def highest(self) -> float:
        """Highest return of an anchor."""
        return max(anchor.returns.value for anchor, _ in self.points)

    @property
    def one_seed(self) -> bool:
        """Whether no gain has an interval."""
        return all(ours.gain is None or ours.gain.low is None for _, ours in self.points)

    def explanation(self, predictor: str) -> Explanation:
        """The entry of one predictor."""
        return next(item for item in self.explanations if item.predictor == predictor)

    def shown(self, p: float | None) -> bool:
        """Whether a p-value is significant at the report's confidence."""
        return p is not None and p < 1 - self.confidence and not self.one_seed


@dataclass(frozen=True)
class AnchorQuality:
    """The anchors of one dataset and critic, by rising return, and every rule's trend over them.

    Attributes:
        noise_share: variance of an anchor's mean return over seeds, as a share of the variance among anchors.
        bimodal_share: share of held-out states in which the data act in two separate ways.
        confidence: coverage of the intervals.
    """

    dataset: str
    critic: str
    anchors: tuple[AnchorRow, ...]
    trends: tuple[RuleTrend, ...]
    noise_share: float | None
    bimodal_share: float | None
    confidence: float

    def gain(self, anchor: AnchorRow, rule: str) -> Estimate | None:
        """Gain of a rule on an anchor; None where the rule was not run."""
        found = (
            ours.gain for trend in self.trends if trend.rule == rule for row, ours in trend.points if row == anchor
        )
        return next(found, None)

    def has(self, diagnostic: str) -> bool:
        """Whether any anchor has this diagnostic."""
        return any(diagnostic in row.diagnostics for row in self.anchors)

    @property
    def by_chance(self) -> float:
        """Number of anchors that chance alone would show above zero if no gain were real; as many would be below."""
        return len(self.anchors) * (1 - self.confidence) / 2


def anchor_quality(
    rules: Sequence[Rule], summaries: Sequence[Summary], settings: ReportSettings
) -> list[AnchorQuality]:
    """The analysis of every (dataset, critic) with at least three anchors on which the baseline was run.

    Args:
        rules: the rules that were rolled out.
        summaries: the summaries of ``rules``, in the same order.
        settings: the name of the baseline, and the width of intervals.
    """
    pairs = list(zip(rules, summaries, strict=True))
    found = []
    for dataset, critic in dict.fromkeys((s.dataset, s.critic) for s in summaries):
        ours = [pair for pair in pairs if (pair[1].dataset, pair[1].critic) == (dataset, critic)]
        anchors = _anchors([pair for pair in ours if pair[1].improvement == settings.baseline])
        if len(anchors) < FEWEST_ANCHORS:
            continue
        others = [summary for _, summary in ours if summary.gain is not None]
        trends = tuple(
            _trend(anchors, [s for s in others if s.improvement == rule], settings)
            for rule in dict.fromkeys(summary.improvement for summary in others)
        )
        shares = [row.diagnostics["bimodal_share"] for row in anchors if "bimodal_share" in row.diagnostics]
        bimodal = math.fsum(shares) / len(shares) if shares else None
        found.append(
            AnchorQuality(dataset, critic, anchors, trends, _noise_share(anchors), bimodal, settings.confidence)
        )
    return found


def _anchors(baselines: list[tuple[Rule, Summary]]) -> tuple[AnchorRow, ...]:
    ordered = sorted(baselines, key=lambda pair: (pair[1].returns.value, pair[1].anchor))
    return tuple(
        AnchorRow(number, summary.anchor, summary, _diagnostics(rule))
        for number, (rule, summary) in enumerate(ordered, start=1)
    )


def _diagnostics(rule: Rule) -> dict[str, float]:
    """Means over the seeds with a finite value, by the name after ``anchor/``."""
    values = {name: list(rule.by_seed.get(f"anchor/{name}", {}).values()) for name in DIAGNOSTICS}
    return {name: math.fsum(found) / len(found) for name, found in values.items() if found}


def _trend(anchors: Sequence[AnchorRow], summaries: list[Summary], settings: ReportSettings) -> RuleTrend:
    by_anchor = {summary.anchor: summary for summary in summaries}
    points = tuple((row, by_anchor[row.name]) for row in anchors if row.name in by_anchor)
    line = fit_line([a.returns.value for a, _ in points], [s.returns.value for _, s in points], settings.confidence)
    # Repair and improvement add up to the gain only on anchors that have both.
    split = [summary for _, summary in points if summary.repair and summary.improvement_part]
    return RuleTrend(
        summaries[0].improvement,
        points,
        _over_anchors([summary for _, summary in points], lambda s: s.gains, settings),
        _over_anchors(split, lambda s: s.repairs, settings),
        _over_anchors(split, lambda s: s.improvements, settings),
        len(split),
        line,
        line.crossing() if line else None,
        tuple(_explanation(name, points) for name in PREDICTORS),
        settings.confidence,
    )


def _over_anchors(
    summaries: Sequence[Summary], of: Callable[[Summary], dict[int, float]], settings: ReportSettings
) -> Estimate | None:
    """Mean over these anchors, with an interval over seeds, since the anchors were chosen and the seeds were not."""
    values = [of(summary) for summary in summaries]
    shared = set.intersection(*map(set, values)) if values else set()
    if not shared:
        # There is no such part, or a partial report has no seed that every anchor has.
        return None
    return mean_interval([math.fsum(v[s] for v in values) / len(values) for s in sorted(shared)], settings.confidence)


def _explanation(predictor: str, points: Sequence[tuple[AnchorRow, Summary]]) -> Explanation:
    both = [(row, summary.gain) for row, summary in points if row.quantity(predictor) is not None]
    gains = [gain.value for _, gain in both if gain]
    x = [row.quantity(predictor) or 0.0 for row, _ in both]
    beyond = None if predictor == "return" else added_share([row.returns.value for row, _ in both], x, gains)
    return Explanation(predictor, len(x), explained_share([x], gains), rank_correlation(x, gains), beyond)


def _noise_share(anchors: Sequence[AnchorRow]) -> float | None:
    """Variance of an anchor's mean return over seeds, as a share of the variance among the anchors' means."""
    stds = [row.summary.return_std for row in anchors]
    if any(std is None for std in stds):
        return None
    noise = math.fsum((row.summary.return_std or 0.0) ** 2 / row.returns.n for row in anchors) / len(anchors)
    mean = math.fsum(row.returns.value for row in anchors) / len(anchors)
    variance = math.fsum((row.returns.value - mean) ** 2 for row in anchors) / (len(anchors) - 1)
    return min(1.0, noise / variance) if variance > 0 else None
