"""The whole report in memory: every file of ``reports/<study>/`` as bytes, and the table for the console."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from spar_core.reporting.cells import Cell, Rule, StudyLists, load_rules
from spar_core.reporting.config import ReportSettings
from spar_core.reporting.console import (
    NOTHING,
    by_setting,
    console_table,
    digits_for,
    gain_text,
    interval,
    number,
    signed,
)
from spar_core.reporting.figures import gains_figure, returns_figure
from spar_core.reporting.glossary import explain
from spar_core.reporting.tables import (
    Summary,
    diagnostics,
    metrics,
    seed_rows,
    summarise,
    summary_frame,
    to_csv,
)

TEMPLATE = "report.md.j2"


@dataclass(frozen=True)
class Report:
    """A rendered report; ``files`` and ``figures`` map names to bytes, figures belong in ``figures/``."""

    files: dict[str, bytes]
    figures: dict[str, bytes] = field(default_factory=dict)
    console: str = ""


def build_report(study: StudyLists, folder_of: Callable[[Cell], Path], settings: ReportSettings) -> Report:
    """Read the cells of the study and render its report; nothing is written.

    The bytes are a function of the evaluation folders, the study and the settings alone.

    Raises:
        SparError: see :func:`spar_core.reporting.cells.load_rules`.
    """
    rules = load_rules(study, folder_of)
    summaries = summarise(rules, settings)
    figures: dict[str, bytes] = {}
    sections = []
    for dataset in dict.fromkeys(summary.dataset for summary in summaries):
        ours = [summary for summary in summaries if summary.dataset == dataset]
        context = next(rule.context for rule in rules if rule.dataset == dataset)
        names = _draw(ours, context, settings, figures)
        sections.append(_section(dataset, ours, rules, context, names))
    page = (
        _environment()
        .get_template(TEMPLATE)
        .render(
            study=study,
            settings=settings,
            sections=sections,
            overview=[table for section in sections for table in section["tables"]],
            rules=list(dict.fromkeys(s.improvement for s in summaries if s.gain is not None)),
            protocol=_protocol(rules, summaries),
            has_baseline=any(summary.improvement == settings.baseline for summary in summaries),
            has_repair=any(summary.improvement == settings.repair for summary in summaries),
            glossary=_glossary(rules),
            confidence=f"{100 * settings.confidence:g}%",
        )
    )
    numbers = json.dumps(metrics(summaries), indent=2, sort_keys=True, allow_nan=False) + "\n"
    files = {
        "metrics.json": numbers.encode(),
        "returns.csv": to_csv(seed_rows(rules, summaries)),
        "table.csv": to_csv(summary_frame(summaries)),
        "report.md": page.encode(),
    }
    return Report(files, figures, console_table(summaries, settings))


def _draw(
    summaries: list[Summary], context: dict[str, Any], settings: ReportSettings, figures: dict[str, bytes]
) -> dict[str, str]:
    """Add the figures of one dataset to ``figures``; returns the name of each by what it shows."""
    # A dot cannot be part of a dataset's name, so two datasets cannot meet in one file.
    slug = summaries[0].dataset.replace("/", ".")
    names = {"returns": f"returns.{slug}.svg"}
    figures[names["returns"]] = returns_figure(summaries, context.get("dataset") or {})
    gains = gains_figure(summaries, settings.baseline)
    if gains is not None:
        names["gains"] = f"gains.{slug}.svg"
        figures[names["gains"]] = gains
    return names


def _section(
    dataset: str,
    summaries: list[Summary],
    rules: list[Rule],
    context: dict[str, Any],
    figures: dict[str, str],
) -> dict[str, Any]:
    """What the template needs to know of one dataset."""
    tables = []
    for setting, rows in by_setting(summaries).items():
        members = [rule for rule in rules if rule.setting == setting]
        tables.append(
            {
                "dataset": dataset,
                "anchor": setting[1],
                "critic": setting[2],
                "rows": rows,
                "digits": digits_for(rows),
                "verdicts": _verdicts(rows),
                "diagnostics": diagnostics(members),
                "all_rules": tuple(row.improvement for row in rows),
                "has_success": any(row.success is not None for row in rows),
            }
        )
    return {"dataset": dataset, "context": context, "tables": tables, "figures": figures}


def _verdicts(rows: list[Summary]) -> dict[str, list[Summary]]:
    """Rules with a gain, sorted by what their interval lets one say."""
    names = {1: "better", -1: "worse"}
    sorted_rows: dict[str, list[Summary]] = {"better": [], "worse": [], "open": []}
    for row in rows:
        if row.gain is not None:
            sorted_rows[names.get(row.gain.direction, "open")].append(row)
    return sorted_rows


def _protocol(rules: list[Rule], summaries: list[Summary]) -> dict[str, str]:
    """The protocol line: checkpoint rule, seeds, episodes a seed; ranges where cells differ."""

    def span(values: set[int]) -> str:
        low, high = min(values), max(values)
        return str(low) if low == high else f"{low} to {high}"

    return {
        "rule": "`, `".join(dict.fromkeys(str(rule.context.get("protocol", "not stated")) for rule in rules)),
        "n": span({summary.returns.n for summary in summaries}),
        "seeds": ", ".join(map(str, sorted({seed for summary in summaries for seed in summary.per_seed}))),
        "episodes": span({count for summary in summaries for count in summary.episodes_a_seed}),
    }


def _glossary(rules: list[Rule]) -> list[tuple[str, str | None]]:
    """Every diagnostic that appears, with its explanation where there is one."""
    return [(key, explain(key)) for key in sorted({key for rule in rules for key in rule.diagnostics})]


def _significant(value: float) -> str:
    """Three significant digits, for quantities of unknown scale."""
    return f"{value + 0.0:.3g}"


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown, not HTML
    )
    environment.globals["nothing"] = NOTHING
    environment.filters |= {
        "number": number,
        "signed": signed,
        "range": interval,
        "gain": gain_text,
        "significant": _significant,
    }
    return environment
