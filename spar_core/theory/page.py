"""The claims' results as one Markdown page. Every number comes from their ``result.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spar_core.reporting.page import templating

NOTHING = "-"


def significant(value: float | None) -> str:
    """Three significant digits, and a dash for a missing value."""
    return NOTHING if value is None else f"{value + 0.0:.3g}"


def interval(finding: Mapping[str, Any]) -> str:
    """The interval of a finding, with three significant digits."""
    low, high = significant(finding["low"]), significant(finding["high"])
    return f"[{low}, {high}]"


def findings_table(result: Mapping[str, Any]) -> str:
    """The findings of one claim as a Markdown table."""
    lines = [
        f"| what is measured | measured | {100 * result['confidence']:g}% interval | closed form | holds |",
        "|---|--:|--:|--:|---|",
    ]
    for finding in result["findings"]:
        cells = (
            finding["says"],
            significant(finding["value"]),
            interval(finding),
            significant(finding["expected"]),
            "yes" if finding["holds"] else "**no**",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def verdict(result: Mapping[str, Any]) -> str:
    """Words that say how many sentences of a claim hold."""
    held = sum(finding["holds"] for finding in result["findings"])
    return f"{held} of {len(result['findings'])} hold"


def page(results: Sequence[Mapping[str, Any]]) -> str:
    """The page ``reports/theory/README.md``."""
    environment = templating.environment(__file__)
    environment.filters |= {"findings": findings_table, "verdict": verdict}
    return environment.get_template("theory.md.j2").render(results=results)
