"""The template's values for one dataset, whose policies were rolled out or only estimated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from spar_core.reporting.figures.drawing import Drawn
from spar_core.reporting.numbers.anchor_quality import AnchorQuality
from spar_core.reporting.numbers.cells import Rule, Setting, by_setting
from spar_core.reporting.numbers.diagnostics import diagnostics
from spar_core.reporting.numbers.flat import Numbers
from spar_core.reporting.numbers.offline import HELDOUT, OfflineSummary
from spar_core.reporting.numbers.pairs import best_of
from spar_core.reporting.numbers.published import published_beside
from spar_core.reporting.numbers.tables import Summary
from spar_core.reporting.page.console import digits_for, digits_of, protocol_text

# With more (anchor, critic) settings in a dataset, the long parts of each are folded.
OPEN_SETTINGS = 3


def section_of(
    dataset: str,
    summaries: list[Summary],
    qualities: list[AnchorQuality],
    numbers: Numbers,
    context: dict[str, Any],
    drawn: Drawn,
) -> dict[str, Any]:
    """The template's values for one dataset whose policies were rolled out.

    Args:
        dataset: its id.
        summaries: the summaries of the dataset.
        qualities: the anchor-quality analyses of the dataset.
        numbers: the numbers of the whole study.
        context: the context of any cell of the dataset.
        drawn: the dataset's figures.
    """
    tables = []
    settings = by_setting(summaries)
    for setting, rows in settings.items():
        members = [rule for rule in numbers.rules if rule.setting == setting]
        tables.append(
            {
                **_table(setting, rows, members, drawn),
                "estimates": False,
                "protocol": protocol_text(rows, "`"),
                "committees": [found for found in numbers.committees if found.setting == setting],
                "best": best_of(rows, numbers.pairs),
                "pairs": {(pair.rule, pair.other): pair for pair in numbers.pairs if pair.setting == setting},
                "against": drawn.against.get(setting),
                "agreements": [found for found in numbers.agreements if found.setting == setting],
                "agreement": drawn.agreement.get(setting),
                "verdicts": _verdicts(rows),
                "has_success": any(row.success is not None for row in rows),
                "has_parameters": any(row.parameters_rule is not None for row in rows),
                "has_policy_parameters": any(row.parameters_policy is not None for row in rows),
                "has_repair": any(row.repair is not None for row in rows),
                "folded": len(settings) > OPEN_SETTINGS and any(quality.critic == setting[2] for quality in qualities),
            }
        )
    described = [
        {
            "quality": quality,
            "digits": digits_for([summary for summary in summaries if summary.critic == quality.critic]),
            "figure": drawn.anchors.get(quality.critic),
        }
        for quality in qualities
    ]
    return {
        "dataset": dataset,
        "offline": False,
        "context": context,
        "tables": tables,
        "anchor_quality": described,
        "published": published_beside(context),
        "figures": drawn,
        "has_agreement": any(found.setting[0] == dataset for found in numbers.agreements),
        "compact": len(settings) > OPEN_SETTINGS,
    }


def _table(
    setting: Setting, rows: Sequence[Summary | OfflineSummary], members: list[Rule], drawn: Drawn
) -> dict[str, Any]:
    """The values that tables of returns and of estimates share; ``members`` are the rules of the setting."""
    dataset, anchor, critic = setting
    return {
        "dataset": dataset,
        "anchor": anchor,
        "critic": critic,
        "rows": rows,
        "gains": {row.improvement: row.gain for row in rows},
        "label": rows[0].label,
        "digits": digits_for(rows),
        "diagnostics": diagnostics(members),
        "all_rules": tuple(row.improvement for row in rows),
        "has_gain": any(row.gain is not None for row in rows),
        "corrections": drawn.corrections.get(setting),
    }


def _verdicts(rows: list[Summary]) -> dict[str, list[Summary]]:
    """Rules with a gain, as better or worse than the baseline where the interval shows it, else as open."""
    names = {1: "better", -1: "worse"}
    sorted_rows: dict[str, list[Summary]] = {"better": [], "worse": [], "open": []}
    for row in rows:
        if row.gain is not None:
            sorted_rows[names.get(row.gain.direction, "open")].append(row)
    return sorted_rows


def offline_section(
    dataset: str, summaries: list[OfflineSummary], rules: list[Rule], context: dict[str, Any], drawn: Drawn
) -> dict[str, Any]:
    """The template's values for one dataset without rollouts; ``rules`` are all rules of the study without rollouts."""
    tables = []
    settings = by_setting(summaries)
    for setting, rows in settings.items():
        table = _table(setting, rows, [rule for rule in rules if rule.setting == setting], drawn)
        tables.append(
            {
                **table,
                "estimates": True,
                # These belong to the anchor, so they are the same for every rule.
                "heldout": [item for item in table["diagnostics"] if item.key in HELDOUT],
                "has_critic": any(row.critic_estimate is not None for row in rows),
                "folded": False,
            }
        )
    return {
        "dataset": dataset,
        "offline": True,
        "digits": digits_of(abs((context.get("dataset") or {}).get("best_return") or 0.0)),
        "context": context,
        "tables": tables,
        "figures": drawn,
        "compact": len(settings) > OPEN_SETTINGS,
    }
