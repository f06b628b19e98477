"""Anchors that evolve, round by round: returns of each anchor and of the policy on it, and what was decided.

Gains are over the anchor that the rounds began with, paired by seed. A decision is about the policy of the round
before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spar_core.evaluation.statistics import Estimate, mean_interval, paired_difference
from spar_core.evolving.rounds import chains
from spar_core.reporting.numbers.cells import Rule, StudyLists
from spar_core.reporting.numbers.offline import OfflineSummary
from spar_core.reporting.numbers.tables import Summary
from spar_core.reporting.page.config import ReportSettings


@dataclass(frozen=True)
class RoundRow:
    """One round; number 0 is the anchor that the rounds began with. Values are by seed; empty where one is not there.

    Attributes:
        number: of the round.
        anchor: name of its anchor.
        rule: whose policy on the anchor is shown: the one that is distilled next, or was distilled last.
        anchor_values: returns of the anchor (FQE values where nothing was rolled out).
        policy_values: the same of the policy.
        anchor_gain, policy_gain: paired with the first anchor.
        accepted: seeds whose anchor is new in this round.
        refused: seeds that stopped in this round.
        off_support: share of held-out steps at which the policy before acts off support, by seed.
        critic_gain: what the critic expects of that policy, by seed, in its scaled rewards.
    """

    number: int
    anchor: str
    rule: str
    anchor_values: Mapping[int, float]
    policy_values: Mapping[int, float]
    anchor_gain: Estimate | None
    policy_gain: Estimate | None
    accepted: tuple[int, ...]
    refused: tuple[int, ...]
    off_support: Mapping[int, float]
    critic_gain: Mapping[int, float]
    confidence: float

    @property
    def anchor_mean(self) -> Estimate | None:
        return _mean(self.anchor_values, self.confidence)

    @property
    def policy_mean(self) -> Estimate | None:
        return _mean(self.policy_values, self.confidence)

    @property
    def mean_critic_gain(self) -> float | None:
        """Over the seeds that were looked at."""
        values = self.critic_gain.values()
        return sum(values) / len(values) if values else None


@dataclass(frozen=True)
class Evolution:
    """The rounds that lead to one anchor, on one dataset; ``offline`` where values are estimates and no returns."""

    dataset: str
    critic: str
    rows: tuple[RoundRow, ...]
    offline: bool
    label: str | None

    @property
    def first(self) -> str:
        """The anchor that the rounds began with."""
        return self.rows[0].anchor

    @property
    def last(self) -> str:
        """The anchor of the last round."""
        return self.rows[-1].anchor

    @property
    def stopped(self) -> dict[int, int]:
        """Round at which each stopped seed was refused."""
        return {seed: row.number for row in self.rows for seed in row.refused}


def evolutions(
    study: StudyLists,
    dataset: str,
    rules: Sequence[Rule],
    summaries: Sequence[Summary] | Sequence[OfflineSummary],
    settings: ReportSettings,
) -> list[Evolution]:
    """What the rounds of a study did on one dataset; ``rules`` and ``summaries`` are the dataset's own.

    In a partial report a round without a cell is left out, and gains are over the seeds that both sides have.
    """
    values = {(s.anchor, s.critic, s.improvement): dict(s.per_seed) for s in summaries}
    evidence = {(rule.anchor, rule.critic): rule.by_seed for rule in rules}
    found = []
    for chain in chains(study.rounds):
        critic = chain[0].critic
        first = values.get((chain[0].of, critic, settings.baseline), {})
        rows = []
        for number, anchor in enumerate([chain[0].of, *(here.anchor for here in chain)]):
            if (anchor, critic) not in evidence:
                continue
            rule = chain[min(number, len(chain) - 1)].improvement
            own = values.get((anchor, critic, settings.baseline), {})
            policy = values.get((anchor, critic, rule), {})
            known = evidence[anchor, critic] if number else {}
            accepted = known.get("round/accepted", {})
            before = {seed for row in rows for seed in row.refused}
            rows.append(
                RoundRow(
                    number,
                    anchor,
                    rule,
                    own,
                    policy,
                    _gain(own, first, settings) if number else None,
                    _gain(policy, first, settings),
                    tuple(seed for seed, value in sorted(accepted.items()) if value),
                    tuple(seed for seed, value in sorted(accepted.items()) if not value and seed not in before),
                    known.get("round/off_support_share", {}),
                    known.get("round/critic_gain", {}),
                    settings.confidence,
                )
            )
        if len(rows) > 1:
            offline = isinstance(summaries[0], OfflineSummary)
            found.append(Evolution(dataset, critic, tuple(rows), offline, summaries[0].label))
    return found


def _mean(values: Mapping[int, float], confidence: float) -> Estimate | None:
    return mean_interval(list(values.values()), confidence) if values else None


def _gain(ours: Mapping[int, float], first: Mapping[int, float], settings: ReportSettings) -> Estimate | None:
    """Paired over the seeds that both have; None where there is none."""
    common = sorted(set(ours) & set(first))
    if not common:
        return None
    pair = ({seed: side[seed] for seed in common} for side in (ours, first))
    return paired_difference(*pair, settings.confidence)
