"""The whole report in memory: every file of ``reports/<study>/`` as bytes, and the table for the console."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from spar_core.reporting.anchor_quality import PREDICTORS, AnchorQuality, anchor_quality, anchors_frame
from spar_core.reporting.cells import Cell, Rule, StudyLists, all_episodes, load_rules
from spar_core.reporting.config import ReportSettings
from spar_core.reporting.console import (
    NOTHING,
    by_setting,
    console_table,
    digits_for,
    gain_text,
    interval,
    marked_gain,
    number,
    p_text,
    signed,
    slope_text,
)
from spar_core.reporting.drawing import Drawn, draw
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
# With more (anchor, critic) settings in a dataset than this, what is long in each folds away.
OPEN_SETTINGS = 3


@dataclass(frozen=True)
class Report:
    """A rendered report; ``files`` and ``figures`` map names to bytes, figures belong in ``figures/``."""

    files: dict[str, bytes]
    figures: dict[str, bytes] = field(default_factory=dict)
    console: str = ""


def build_report(
    study: StudyLists,
    folder_of: Callable[[Cell], Path],
    settings: ReportSettings,
    missing: Sequence[Cell] | None = None,
) -> Report:
    """Read the cells of the study and render its report; nothing is written.

    The bytes are a function of the evaluation folders, the study and the settings alone.

    Args:
        study: a whole study, or the part of one that is there (:func:`spar_core.reporting.cells.present_part`).
        folder_of: where the evaluation of a cell lies.
        settings: what is compared with what.
        missing: for a partial report, the cells that are not there; the page then says so at its top, rules are
            compared over the seeds that they share, and ``episodes.csv`` holds every episode read.

    Raises:
        SparError: see :func:`spar_core.reporting.cells.load_rules`.
    """
    partial = missing is not None
    rules = load_rules(study, folder_of)
    summaries = summarise(rules, settings, partial=partial)
    qualities = anchor_quality(rules, summaries, settings)
    figures: dict[str, bytes] = {}
    sections = []
    for dataset in dict.fromkeys(summary.dataset for summary in summaries):
        ours = [summary for summary in summaries if summary.dataset == dataset]
        context = next(rule.context for rule in rules if rule.dataset == dataset)
        about = [quality for quality in qualities if quality.dataset == dataset]
        drawn = draw(ours, about, context, settings, figures)
        sections.append(_section(dataset, ours, about, rules, context, drawn))
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
            partial=partial,
            missing=_by_setting_and_rule(missing or ()),
            present_count=len(list(study.cells())),
            missing_count=len(missing or ()),
        )
    )
    numbers = json.dumps(metrics(summaries), indent=2, sort_keys=True, allow_nan=False) + "\n"
    files = {
        "metrics.json": numbers.encode(),
        "returns.csv": to_csv(seed_rows(rules, summaries)),
        "table.csv": to_csv(summary_frame(summaries)),
        "anchors.csv": to_csv(anchors_frame(qualities)),
        "report.md": page.encode(),
    }
    if partial:
        files["episodes.csv"] = to_csv(all_episodes(rules))
    return Report(files, figures, console_table(summaries, settings))


def _by_setting_and_rule(cells: Sequence[Cell]) -> dict[tuple[str, str, str], dict[str, list[str]]]:
    """Missing cells by (dataset, anchor, critic) and rule: the seed groups of each, in the study's order."""
    groups: dict[tuple[str, str, str], dict[str, list[str]]] = {}
    for cell in cells:
        rules = groups.setdefault((cell.dataset, cell.anchor, cell.critic), {})
        rules.setdefault(cell.improvement, []).append(cell.seeds)
    return groups


def _section(
    dataset: str,
    summaries: list[Summary],
    qualities: list[AnchorQuality],
    rules: list[Rule],
    context: dict[str, Any],
    drawn: Drawn,
) -> dict[str, Any]:
    """What the template needs to know of one dataset."""
    tables = []
    settings = by_setting(summaries)
    for setting, rows in settings.items():
        members = [rule for rule in rules if rule.setting == setting]
        tables.append(
            {
                "dataset": dataset,
                "anchor": setting[1],
                "critic": setting[2],
                "rows": rows,
                "gains": {row.improvement: row.gain for row in rows},
                "digits": digits_for(rows),
                "verdicts": _verdicts(rows),
                "diagnostics": diagnostics(members),
                "all_rules": tuple(row.improvement for row in rows),
                "has_success": any(row.success is not None for row in rows),
                "has_parameters": any(row.parameters_rule is not None for row in rows),
                "has_policy_parameters": any(row.parameters_policy is not None for row in rows),
                "has_gain": any(row.gain is not None for row in rows),
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
        "context": context,
        "tables": tables,
        "anchor_quality": described,
        "figures": drawn,
        "compact": len(settings) > OPEN_SETTINGS,
    }


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


def _significant(value: float | None) -> str:
    """Three significant digits, for quantities of unknown scale; counts whole, and a dash for a missing value."""
    if value is None:
        return NOTHING
    return f"{value:.0f}" if abs(value) >= 1000 and float(value).is_integer() else f"{value + 0.0:.3g}"


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown, not HTML
    )
    environment.globals |= {"nothing": NOTHING, "predictors": PREDICTORS}
    environment.filters |= {
        "number": number,
        "signed": signed,
        "range": interval,
        "gain": gain_text,
        "marked": marked_gain,
        "slope": slope_text,
        "p": p_text,
        "significant": _significant,
    }
    return environment
