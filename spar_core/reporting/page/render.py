"""The whole report in memory: every file of ``reports/<study>/`` as bytes, and the table for the console."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jinja2

from spar_core.evaluation.statistics import Estimate
from spar_core.reporting.config import ReportSettings
from spar_core.reporting.figures.drawing import PICTURED, draw, draw_offline
from spar_core.reporting.figures.harm_figure import harm_figure
from spar_core.reporting.figures.inside_figures import draw_inside
from spar_core.reporting.figures.published_figure import published_figure
from spar_core.reporting.figures.rounds_figure import draw_rounds
from spar_core.reporting.numbers.anchor_quality import PREDICTORS, anchor_quality
from spar_core.reporting.numbers.anchor_table import anchors_frame
from spar_core.reporting.numbers.cells import Cell, FoldersOf, Rule, Setting, StudyLists, by_setting
from spar_core.reporting.numbers.committees import committees_frame
from spar_core.reporting.numbers.flat import (
    Numbers,
    episodes_frame,
    metrics,
    numbers_of,
    seed_frame,
    summary_frame,
    to_csv,
)
from spar_core.reporting.numbers.harm import harm_frame, harms
from spar_core.reporting.numbers.inside import Seen, load_inside, measures_frame
from spar_core.reporting.numbers.overall import overall_frame
from spar_core.reporting.numbers.pairs import pairs_frame
from spar_core.reporting.numbers.published import below, compare, public_scores
from spar_core.reporting.numbers.reading import load_rules
from spar_core.reporting.numbers.regret import overall_regrets, regret_frame, regrets
from spar_core.reporting.page import templating
from spar_core.reporting.page.answer import PARAGRAPHS, Answer, PartHealth, answer, console_answer
from spar_core.reporting.page.console import (
    NOTHING,
    console_table,
    digits_of,
    gain_text,
    interval,
    marked_gain,
    number,
    p_text,
    signed,
    slope_text,
)
from spar_core.reporting.page.glossary import explain
from spar_core.reporting.page.inside import inside_section
from spar_core.reporting.page.provenance import INPUTS, Origins, changed, judged_with, sources_of
from spar_core.reporting.page.sections import offline_section, section_of

TEMPLATE, HARM, PUBLISHED = "report.md.j2", "harm.svg", "published.svg"


@dataclass(frozen=True)
class Report:
    """A rendered report.

    Attributes:
        files: name to bytes.
        figures: name below ``figures/`` to bytes.
        console: the answer and the table, as `make run` prints them.
    """

    files: dict[str, bytes]
    figures: dict[str, bytes] = field(default_factory=dict)
    console: str = ""


def build_report(
    study: StudyLists,
    folders: FoldersOf,
    settings: ReportSettings,
    missing: Sequence[Cell] | None = None,
    origins: Origins | None = None,
) -> Report:
    """Read the cells of the study and render its report; nothing is written.

    The bytes depend on nothing but the cells' folders, the study, the settings and the origins.

    Args:
        study: a whole study, or the present part of one (:func:`spar_core.reporting.page.present.present_part`).
        folders: where the artifacts of a cell lie.
        settings: which rules gains are measured against, and the width of intervals.
        missing: for a partial report, the cells that do not exist; the page then lists them at its top, and rules are
            compared over the seeds that both have.
        origins: where settings come from that params.yaml does not give, by dataset, section, variant and key.

    Raises:
        SparError: see :func:`spar_core.reporting.numbers.reading.load_rules`.
    """
    partial = missing is not None
    rules = load_rules(study, folders)
    numbers = numbers_of(rules, settings, partial=partial)
    # Anchors of rounds are made from one another, so a trend over anchors must not count them as independent.
    made = {here.anchor for here in study.rounds}
    qualities = anchor_quality(
        [rule for rule in numbers.rules if rule.anchor not in made],
        [summary for summary in numbers.summaries if summary.anchor not in made],
        settings,
    )
    inside = load_inside(study, folders, partial=partial)
    figures: dict[str, bytes] = {}
    sections: list[dict[str, Any]] = []
    for dataset in dict.fromkeys(rule.dataset for rule in rules):
        context = next(rule.context for rule in rules if rule.dataset == dataset)
        offline = [summary for summary in numbers.offline if summary.dataset == dataset]
        members = [rule for rule in rules if rule.dataset == dataset]
        if offline:
            drawn = draw_offline(offline, members, settings, figures)
            sections.append(offline_section(dataset, offline, numbers.unrolled, context, drawn))
            sections[-1]["rounds"] = draw_rounds(study, dataset, members, offline, settings, figures)
            continue
        ours = [summary for summary in numbers.summaries if summary.dataset == dataset]
        about = [quality for quality in qualities if quality.dataset == dataset]
        agreements = [found for found in numbers.agreements if found.setting[0] == dataset]
        drawn = draw(ours, members, agreements, about, context, settings, figures)
        sections.append(section_of(dataset, ours, about, numbers, context, drawn))
        sections[-1]["rounds"] = draw_rounds(study, dataset, members, ours, settings, figures)
    for section in sections:
        section["inside"] = _inside(section["dataset"], rules, inside, settings, figures)
    harmed = harms(numbers.summaries)
    by_critic = harm_figure(numbers.summaries, settings.baseline) if harmed else None
    if by_critic is not None:
        figures[HARM] = by_critic
    published = compare(numbers.rules, numbers.summaries, settings.confidence)
    if published is not None and published.beside:
        figures[PUBLISHED] = published_figure(published)
    regretted = regrets(numbers.rules, numbers.summaries, settings)
    answers, health = answer(rules, numbers.agreements, settings)
    named = {summary.improvement for summary in numbers.every}
    page = (
        _environment()
        .get_template(TEMPLATE)
        .render(
            study=study,
            settings=settings,
            answers=answers,
            health=health,
            paragraphs=PARAGRAPHS,
            sections=sections,
            overview=[table for section in sections for table in section["tables"]],
            rules=list(dict.fromkeys(s.improvement for s in numbers.every if s.gain is not None)),
            protocol=_protocol(rules, numbers),
            has_baseline=settings.baseline in named,
            has_repair=settings.repair in named,
            glossary=_glossary(rules),
            overall=numbers.overall,
            overall_settings=len({(entry.anchor, entry.critic) for entry in numbers.overall}),
            harms=[entry for entry in harmed if entry.improvement != settings.baseline],
            harm_figure=HARM if by_critic is not None else None,
            published=published,
            published_figure=PUBLISHED,
            public_scores=public_scores(),
            below=below(),
            labels=list(dict.fromkeys(s.label for s in numbers.summaries if s.label)),
            regrets=by_setting(regretted),
            overall_regrets=overall_regrets(regretted, settings.confidence),
            choices={rule.setting: rule.choices for rule in numbers.rules if rule.choices},
            sources=sources_of(rules),
            changed=changed(rules, origins or {}),
            judged=judged_with(rules, origins or {}),
            inputs=INPUTS,
            origins=any((origins or {}).values()),
            confidence=f"{100 * settings.confidence:g}%",
            partial=partial,
            missing=_by_setting_and_rule(missing or ()),
            present_count=len(list(study.cells())),
            missing_count=len(missing or ()),
        )
    )
    flat = json.dumps(metrics(numbers), indent=2, sort_keys=True, allow_nan=False) + "\n"
    files = {
        "report.md": page.encode(),
        "metrics.json": flat.encode(),
        "episodes.csv": to_csv(episodes_frame(rules)),
        "returns.csv": to_csv(seed_frame(numbers)),
        "table.csv": to_csv(summary_frame(numbers)),
        "measures.csv": to_csv(measures_frame(inside)),
        "anchors.csv": to_csv(anchors_frame(qualities)),
        "committees.csv": to_csv(committees_frame(numbers.committees)),
        "pairs.csv": to_csv(pairs_frame(numbers.pairs)),
        "overall.csv": to_csv(overall_frame(numbers.overall)),
        "harm.csv": to_csv(harm_frame(harmed)),
        "regret.csv": to_csv(regret_frame(regretted)),
    }
    return Report(files, figures, console_text(answers, health, numbers, settings))


def console_text(
    answers: Sequence[Answer], health: Sequence[PartHealth], numbers: Numbers, settings: ReportSettings
) -> str:
    """The answer, then the table."""
    table = console_table(numbers.summaries, settings, numbers.offline, numbers.committees)
    return f"{console_answer(answers, health)}\n\n{table}"


def _inside(
    dataset: str, rules: list[Rule], found: list[Seen], settings: ReportSettings, figures: dict[str, bytes]
) -> dict[str, Any] | None:
    """Geometry and diagnoses of a dataset, with figures and readings for its first settings."""
    pictured = list(dict.fromkeys(rule.setting for rule in rules if rule.dataset == dataset))[:PICTURED]
    section = inside_section(dataset, found, settings, pictured)
    if section is not None:
        section["figures"] = draw_inside(dataset, found, pictured, settings.confidence, figures)
    return section


def _around(estimate: Estimate | None) -> str:
    """Mean to three digits, and half the width of its interval to two."""
    if estimate is None:
        return NOTHING
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value + 0.0:.3g}"
    return f"{estimate.value + 0.0:.3g} ± {(estimate.high - estimate.low) / 2:.2g}"


def _spread(row: Mapping[str, Any]) -> str:
    """:func:`_around` for a row of :func:`spar_core.diagnostics.summary.summarise`."""
    return _around(Estimate(row["value"], row["low"], row["high"], row["seeds"]))


def _by_setting_and_rule(cells: Sequence[Cell]) -> dict[Setting, dict[str, list[str]]]:
    """Missing cells by setting and rule: the seed groups of each, in the study's order."""
    groups: dict[Setting, dict[str, list[str]]] = {}
    for cell in cells:
        rules = groups.setdefault((cell.dataset, cell.anchor, cell.critic), {})
        rules.setdefault(cell.improvement, []).append(cell.seeds)
    return groups


def _protocol(rules: list[Rule], numbers: Numbers) -> dict[str, str | bool]:
    """The protocol line: checkpoint rule, seeds, and episodes per seed; ranges where cells differ."""

    def span(values: set[int]) -> str:
        low, high = min(values), max(values)
        return str(low) if low == high else f"{low} to {high}"

    counts = {count for summary in numbers.summaries for count in summary.episodes_a_seed}
    return {
        "rule": "`, `".join(dict.fromkeys(str(rule.context.get("protocol", "not stated")) for rule in rules)),
        "n": span({len(summary.per_seed) for summary in numbers.every}),
        "seeds": ", ".join(map(str, sorted({seed for summary in numbers.every for seed in summary.per_seed}))),
        "episodes": span(counts) if counts else "",
        "estimates": bool(numbers.offline),
    }


def _glossary(rules: list[Rule]) -> list[tuple[str, str | None]]:
    """Every diagnostic of the report with its explanation, or None for one without."""
    return [(key, explain(key)) for key in sorted({key for rule in rules for key in rule.diagnostics})]


def _significant(value: float | None) -> str:
    """Three significant digits, for quantities of unknown scale; counts whole, and a dash for a missing value."""
    if value is None:
        return NOTHING
    return f"{value:.0f}" if abs(value) >= 1000 and float(value).is_integer() else f"{value + 0.0:.3g}"


def _sentence(clause: str) -> str:
    """A clause with a capital and a full stop."""
    return f"{clause[:1].upper()}{clause[1:].rstrip('.')}."


def _environment() -> jinja2.Environment:
    environment = templating.environment(__file__)
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
        "sentence": _sentence,
        "around": _around,
        "spread": _spread,
        "digits": digits_of,
    }
    return environment
