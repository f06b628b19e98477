"""Anchors that evolve over rounds: returns of each round's anchor and policy, and which policies were accepted.

Gains are over the first anchor, paired by seed. Round k decides about the policy of round k - 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spar_core.evaluation.statistics import Estimate, mean_interval, paired_difference
from spar_core.evolving.rounds import chains
from spar_core.reporting.config import ReportSettings
from spar_core.reporting.numbers.cells import Rule, StudyLists
from spar_core.reporting.numbers.offline import OfflineSummary
from spar_core.reporting.numbers.tables import Summary


@dataclass(frozen=True)
class RoundRow:
    """One round; round 0 has the first anchor.

    Attributes:
        number: number of the round.
        anchor: name of its anchor.
        rule: the rule whose policy on the anchor is shown. The next round distils that policy; the last round shows
            the rule that was distilled last.
        anchor_values, policy_values: returns of the anchor and of the policy by seed (FQE values without rollouts);
            empty where the cell does not exist.
        anchor_gain, policy_gain: over the first anchor, paired by seed.
        accepted: seeds that got a new anchor in this round.
        refused: seeds that stopped in this round.
        off_support: share of held-out steps at which the previous round's policy acts off support, by seed.
        critic_gain: the critic's value of that policy minus its value of the anchor, by seed, in scaled rewards.
        confidence: coverage of the intervals.
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
        """Mean over seeds of the anchor's values."""
        return _mean(self.anchor_values, self.confidence)

    @property
    def policy_mean(self) -> Estimate | None:
        """Mean over seeds of the policy's values."""
        return _mean(self.policy_values, self.confidence)

    @property
    def mean_critic_gain(self) -> float | None:
        """Mean of ``critic_gain`` over the seeds that have one."""
        values = self.critic_gain.values()
        return sum(values) / len(values) if values else None


@dataclass(frozen=True)
class Evolution:
    """The rounds that lead to one anchor, on one dataset; ``offline`` says that values are estimates, not returns."""

    dataset: str
    critic: str
    rows: tuple[RoundRow, ...]
    offline: bool
    label: str | None

    @property
    def first(self) -> str:
        """The anchor of round 0."""
        return self.rows[0].anchor

    @property
    def last(self) -> str:
        """The anchor of the last round."""
        return self.rows[-1].anchor

    @property
    def stopped(self) -> dict[int, int]:
        """The round in which each stopped seed was refused."""
        return {seed: row.number for row in self.rows for seed in row.refused}


def evolutions(
    study: StudyLists,
    dataset: str,
    rules: Sequence[Rule],
    summaries: Sequence[Summary] | Sequence[OfflineSummary],
    settings: ReportSettings,
) -> list[Evolution]:
    """The rounds of a study on one dataset; ``rules`` and ``summaries`` are those of the dataset.

    A partial report leaves out rounds without a cell, and its gains are over the seeds that both have.
    """
    values = {(s.anchor, s.critic, s.improvement): dict(s.per_seed) for s in summaries}
    evidence = {(rule.anchor, rule.critic): rule.by_seed for rule in rules}
    found = []
    for chain in chains(study.rounds):
        critic = chain[0].critic
        first = values.get((chain[0].of, critic, settings.baseline), {})
        rows: list[RoundRow] = []
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
    """Mean difference over the seeds that both have; None where they share no seed."""
    common = sorted(set(ours) & set(first))
    if not common:
        return None
    mine, theirs = ({seed: values[seed] for seed in common} for values in (ours, first))
    return paired_difference(mine, theirs, settings.confidence)
