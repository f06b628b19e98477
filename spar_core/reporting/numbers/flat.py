"""The tables and metrics of a report at full precision, for DVC, for scripts, and for computing the report again.

Rules that were rolled out and rules that were only estimated from logged data share the tables, but not the columns: an
estimate never stands in a column of returns. A column of estimates or labels is left out where no rule has a value.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from spar_core.evaluation.statistics import normalised_score, seed_means
from spar_core.reporting.config import ReportSettings
from spar_core.reporting.numbers.agreement import Agreement, agreements
from spar_core.reporting.numbers.cells import KEYS, Rule
from spar_core.reporting.numbers.committees import CommitteeSummary, committees_of
from spar_core.reporting.numbers.offline import OfflineSummary, summarise_offline
from spar_core.reporting.numbers.overall import Overall, overall
from spar_core.reporting.numbers.pairs import Pair, pairs_of
from spar_core.reporting.numbers.reading import COLUMNS
from spar_core.reporting.numbers.tables import Summary, summarise

# Counts stay whole numbers where some are missing.
COUNTS = ["parameters_rule", "parameters_policy"]
# Columns of table.csv that are left out where no rule has a value.
WHERE_FILLED = ("fqe_mean", "critic_estimate", "score_label", "label")
RETURNS = [*KEYS, "rule", "seed", "return_mean", "normalised_score", "length_mean"]


@dataclass(frozen=True)
class Numbers:
    """Every rule of a study with its summary, in the study's order: rolled-out rules apart from all others.

    Attributes:
        rules, summaries: rules that were rolled out, in the same order.
        unrolled, offline: rules with estimates only, in the same order.
        pairs, overall, agreements: what is computed from several rules.
        committees: the committees of rules that were rolled out.
    """

    rules: list[Rule]
    summaries: list[Summary]
    unrolled: list[Rule]
    offline: list[OfflineSummary]
    pairs: list[Pair]
    overall: list[Overall]
    agreements: list[Agreement]
    committees: list[CommitteeSummary]

    @property
    def every(self) -> list[Summary | OfflineSummary]:
        """All summaries, those of rollouts first."""
        return [*self.summaries, *self.offline]


def numbers_of(rules: Sequence[Rule], settings: ReportSettings, *, partial: bool = False) -> Numbers:
    """Compute the numbers of all rules; see :func:`spar_core.reporting.numbers.tables.summarise`."""
    rolled = [rule for rule in rules if rule.not_evaluated is None]
    unrolled = [rule for rule in rules if rule.not_evaluated is not None]
    summaries = summarise(rolled, settings, partial=partial)
    return Numbers(
        rolled,
        summaries,
        unrolled,
        summarise_offline(unrolled, settings, partial=partial),
        pairs_of(summaries, settings, partial=partial),
        overall(rolled, summaries, settings),
        agreements(rolled),
        committees_of(rolled, settings),
    )


def rule_labels(summaries: Sequence[Summary | OfflineSummary]) -> list[str]:
    """The shortest names that tell the rules apart: dataset, anchor and critic are added only where they vary."""
    axes = ["dataset", "anchor", "critic"]
    varied = [axis for axis in axes if len({getattr(s, axis) for s in summaries}) > 1]
    return [" ".join([s.improvement, *(f"[{getattr(s, axis)}]" for axis in varied)]) for s in summaries]


def metrics(numbers: Numbers) -> dict[str, float]:
    """The content of ``metrics.json``: ``<dataset>/<anchor>/<critic>/<improvement>/<name>`` to number.

    A missing value has no key. Keys that begin with ``overall/`` or ``agreement/`` combine several cells, and
    ``<...>/committee/<name>`` is of the rule's committees.
    """
    by_rule = {
        f"{summary.key}/{name}": value
        for summary in numbers.every
        for name, value in summary.metrics().items()
        if value is not None
    }
    combined = [*(entry.metrics() for entry in numbers.overall), *(found.metrics() for found in numbers.agreements)]
    combined += [entry.metrics() for entry in numbers.committees]
    return by_rule | {name: value for part in combined for name, value in part.items()}


def episodes_frame(rules: Sequence[Rule]) -> pd.DataFrame:
    """``episodes.csv``: one row per evaluated episode; no row where no policy was rolled out.

    ``normalised_score`` is empty where the environment has no reference returns.
    """
    columns = [*COLUMNS]
    columns.insert(columns.index("return") + 1, "normalised_score")
    frames = [_scored(rule) for rule in rules if len(rule.episodes)]
    # Without a frame there is nothing to concatenate; an empty one would lose the types of the others.
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)


def _scored(rule: Rule) -> pd.DataFrame:
    """The episodes of a rule with their normalised scores, and with flags as True, False or a missing value."""
    reference = rule.context.get("reference")
    returns = rule.episodes["return"]
    scores = [normalised_score(value, reference["min"], reference["max"]) if reference else None for value in returns]
    flags = {name: rule.episodes[name].map({1.0: True, 0.0: False}) for name in ("terminated", "success")}
    return rule.episodes.assign(normalised_score=scores, **flags)


def seed_frame(numbers: Numbers) -> pd.DataFrame:
    """``returns.csv``: one row per rule and seed, for `dvc plots`."""
    names = iter(rule_labels(numbers.every))
    rows = []
    for rule, summary in zip(numbers.rules, numbers.summaries, strict=True):
        reference = rule.context.get("reference")
        lengths, name = seed_means(rule.episodes["seed"], rule.episodes["length"]), next(names)
        for seed, value in summary.per_seed.items():
            score = normalised_score(value, reference["min"], reference["max"]) if reference else None
            known: dict[str, Any] = {"return_mean": value, "normalised_score": score, "length_mean": lengths[seed]}
            known |= {name: values.get(seed) for name, values in rule.offline.items()}
            known["score_label"] = summary.score_label
            rows.append({**_axes(summary), "rule": name, "seed": seed, **known, "label": summary.label})
    for estimated in numbers.offline:
        name = next(names)
        for seed, value in estimated.per_seed.items():
            known = {"fqe": value, "critic_estimate": estimated.critic_per_seed.get(seed)}
            rows.append({**_axes(estimated), "rule": name, "seed": seed, **known, "label": estimated.label})
    return _frame(rows, RETURNS, ["fqe", "critic_estimate", "score_label", "label"])


def summary_frame(numbers: Numbers) -> pd.DataFrame:
    """``table.csv``: one row per rule, with every number of the report's tables of returns."""
    names = rule_labels(numbers.every)
    rows = [{"rule": name, **s.flat()} for name, s in zip(names, numbers.every, strict=True)]
    first = numbers.every[0]
    # The plots of dvc.yaml need these columns even where no rule has a return.
    plotted = ["seeds", "return_mean", f"gain_over_{first.baseline}"]
    returns = list(numbers.summaries[0].flat()) if numbers.summaries else [*_axes(first), *plotted, *COUNTS]
    always = ["rule", *(name for name in returns if name not in WHERE_FILLED)]
    estimates = [name for name in (numbers.offline[0].flat() if numbers.offline else []) if name not in always]
    frame = _frame(rows, always, list(dict.fromkeys([*(n for n in estimates if n != "label"), *WHERE_FILLED])))
    return frame.astype({name: "Int64" for name in ["episodes", *COUNTS] if name in frame})


def to_csv(frame: pd.DataFrame) -> bytes:
    """CSV bytes with Unix line ends on every platform; missing values are empty fields."""
    buffer = io.StringIO()
    frame.to_csv(buffer, index=False, lineterminator="\n")
    return buffer.getvalue().encode()


def _axes(summary: Summary | OfflineSummary) -> dict[str, str]:
    return {axis: getattr(summary, axis) for axis in KEYS}


def _frame(rows: list[dict[str, Any]], always: Sequence[str], where_filled: Sequence[str]) -> pd.DataFrame:
    """A table with the columns ``always``, and those of ``where_filled`` for which some row has a value."""
    filled = [name for name in where_filled if any(row.get(name) is not None for row in rows)]
    return pd.DataFrame(rows, columns=[*always, *filled])
