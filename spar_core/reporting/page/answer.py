"""The first screen of a report: a verdict for every setting, and the health of the parts, in sentences."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from spar_core.reporting.config import ReportSettings
from spar_core.reporting.numbers.cells import Rule, Setting
from spar_core.reporting.numbers.flat import Numbers
from spar_core.reporting.numbers.health import PARTS, Finding, State, findings, worst
from spar_core.reporting.numbers.verdict import Decision, Verdict, verdicts
from spar_core.reporting.page.console import WIDTH, digits_of, gain_text, number

# With more settings, each has one line of a table in place of a paragraph.
PARAGRAPHS = 3
# An undecided gain of more than this share of the anchor's return is worth more episodes or seeds.
WORTH = 0.05


@dataclass(frozen=True)
class Answer:
    """A verdict in words.

    Attributes:
        headline: what to do, one sentence.
        sentences: why, which policy, and how sure this is.
        gain: of the rule over the anchor, as text.
    """

    verdict: Verdict
    headline: str
    sentences: tuple[str, ...]
    gain: str


@dataclass(frozen=True)
class PartHealth:
    """One line of the table of health."""

    part: str
    state: State
    found: str
    advice: str


def answer(rules: Sequence[Rule], numbers: Numbers, settings: ReportSettings) -> tuple[list[Answer], list[PartHealth]]:
    """Verdicts and health of a study, in words."""
    found = findings(rules, numbers.agreements, settings.repair)
    return [answer_of(verdict, settings) for verdict in verdicts(rules, settings)], health_of(found)


def answer_of(verdict: Verdict, settings: ReportSettings) -> Answer:
    """The verdict in words."""
    digits = digits_of(max(abs(verdict.value), abs(verdict.anchor)))
    gain = gain_text(verdict.gain, digits)
    headline, why = {
        Decision.DEPLOY: _deploy,
        Decision.REPAIR: _repair,
        Decision.KEEP: _keep,
        Decision.TRY: _try,
        Decision.OPEN: _open,
    }[verdict.decision](verdict, settings, digits)
    label = [f"{verdict.label[:1].upper()}{verdict.label[1:].rstrip('.')}."] if verdict.label else []
    return Answer(verdict, headline, (*label, *why), gain)


def health_of(findings: Sequence[Finding]) -> list[PartHealth]:
    """One line for every part that has findings."""
    settings = len({finding.setting for finding in findings})
    lines = []
    for part in PARTS:
        ours = [finding for finding in findings if finding.check.part == part]
        if not ours:
            continue
        bad = [finding for finding in ours if finding.state is not State.GREEN]
        if bad:
            checks = list(dict.fromkeys(finding.check for finding in bad))
            clauses = [_clause([f for f in bad if f.check is check], settings) for check in checks]
            advice = list(dict.fromkeys(check.advice for check in checks))
            lines.append(PartHealth(part, worst(ours), _sentences(clauses), _sentences(advice)))
        else:
            count = len({finding.check for finding in ours})
            passed = f"{count} checks pass." if count > 1 else "1 check passes."
            lines.append(PartHealth(part, State.GREEN, passed, ""))
    return lines


def console_answer(answers: Sequence[Answer], health: Sequence[PartHealth]) -> str:
    """Verdicts and health as plain text: a paragraph for every verdict, and one line for a part that is not green."""
    paragraphs = []
    for answer in answers:
        where = ", ".join(_named(answer.verdict.setting))
        text = answer.headline if len(answers) > PARAGRAPHS else " ".join([answer.headline, *answer.sentences])
        paragraphs += textwrap.wrap(f"{where}: {text}".replace("`", ""), WIDTH, break_on_hyphens=False)
    if health:
        states = ", ".join(f"{line.part} {line.state}" for line in health)
        paragraphs += textwrap.wrap(f"Health: {states}.", WIDTH)
    for line in health:
        if line.state is not State.GREEN:
            text = f"{line.part} ({line.state}): {line.found} {line.advice}".replace("`", "")
            paragraphs += textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="    ")
    return "\n".join(paragraphs)


def _deploy(verdict: Verdict, settings: ReportSettings, digits: int) -> tuple[str, list[str]]:
    why = [_returns(verdict, settings, digits)]
    if verdict.repair and verdict.improvement:
        added = gain_text(verdict.improvement, digits)
        if verdict.improvement.direction > 0:
            repaired = gain_text(verdict.repair, digits)
            why.append(f"Of this gain, the critic adds {added} to repair ({repaired}), which needs no critic.")
        else:
            why.append(f"The critic is not shown to add to repair, which needs no critic: {added}.")
    return f"Deploy `{verdict.rule}`.", [*why, *_tied(verdict), *_lost(verdict, digits), *_sure(verdict, settings)]


def _repair(verdict: Verdict, settings: ReportSettings, digits: int) -> tuple[str, list[str]]:
    why = "No rule with a critic is shown to return more than this clone of the data through the residual model."
    sentences = [_returns(verdict, settings, digits), why, *_lost(verdict, digits), *_sure(verdict, settings)]
    return f"Deploy `{verdict.rule}`: the gain is repair, and the critic adds nothing that is shown.", sentences


def _keep(verdict: Verdict, settings: ReportSettings, digits: int) -> tuple[str, list[str]]:
    what = "is estimated at" if verdict.unit == "estimates" else "returns"
    why = [
        f"No rule is shown to beat `{settings.baseline}`, which {what} {number(verdict.anchor, digits)}; the highest "
        f"mean, of `{verdict.rule}`, differs from it by {gain_text(verdict.gain, digits)}."
    ]
    if verdict.worse:
        why.append(f"Shown to be worse: {_codes(verdict.worse)}.")
    if verdict.best_case is not None and verdict.best_case > WORTH * abs(verdict.anchor):
        more = {"episodes": "episodes or seed groups", "estimates": "seeds"}.get(verdict.unit, "seed groups")
        why.append(f"A gain of up to {number(verdict.best_case, digits)} is not ruled out; more {more} would tell.")
    return "Keep your policy.", [*why, *_confidence(verdict, settings)]


def _try(verdict: Verdict, settings: ReportSettings, digits: int) -> tuple[str, list[str]]:
    why = [
        "Nothing was rolled out. By fitted-Q evaluation on logged data its policies are worth "
        f"{number(verdict.value, digits)}, those of `{settings.baseline}` {number(verdict.anchor, digits)}: a gain of "
        f"{gain_text(verdict.gain, digits)}.",
        "An estimate is not a return and may prefer the worse policy: compare both where a failure costs little.",
    ]
    return f"Try `{verdict.rule}` beside your policy.", [*why, *_tied(verdict), *_sure(verdict, settings)]


def _open(verdict: Verdict, settings: ReportSettings, digits: int) -> tuple[str, list[str]]:
    if verdict.rule is None:
        return "Not decided.", [f"The study has no rule besides `{settings.baseline}` for this anchor and critic."]
    gain = gain_text(verdict.gain, digits)
    return "Not decided.", [
        f"`{verdict.rule}` differs from `{settings.baseline}` by {gain}, without an interval.",
        "Evaluate more episodes, or add seeds to `study.seeds`.",
    ]


def _returns(verdict: Verdict, settings: ReportSettings, digits: int) -> str:
    count = "" if verdict.unit == "episodes" else f"{verdict.units} "
    if verdict.members > 1:
        subject = f"Its {count}committee{'' if not count else 's'} of {verdict.members} seeds"
    else:
        subject = f"Its {count}policies" if count else "Its policy"
    verb = "return" if count else "returns"
    theirs = "those" if count else "that"
    return (
        f"{subject} {verb} {number(verdict.value, digits)}, {theirs} of `{settings.baseline}` "
        f"{number(verdict.anchor, digits)}: a gain of {gain_text(verdict.gain, digits)}."
    )


def _tied(verdict: Verdict) -> list[str]:
    return [f"Not told apart from it: {_codes(verdict.tied)}."] if verdict.tied else []


def _lost(verdict: Verdict, digits: int) -> list[str]:
    if not verdict.lost:
        return []
    seeds = ", ".join(f"seed {seed} returns {number(value, digits)}" for seed, value in verdict.lost.items())
    advice = "Deploy the committee and not one seed" if verdict.members > 1 else "Not every seed gains"
    return [f"{advice}: alone, {seeds}."]


def _sure(verdict: Verdict, settings: ReportSettings) -> list[str]:
    return [f"Policy: `{verdict.policy}`.", *_confidence(verdict, settings)]


def _confidence(verdict: Verdict, settings: ReportSettings) -> list[str]:
    unit = "seeds" if verdict.unit == "estimates" else verdict.unit
    rules = f" for all {verdict.rules} rules together" if verdict.rules > 1 else ""
    text = f"Intervals hold at {100 * settings.confidence:g}%{rules}, over {verdict.units} {unit}"
    if verdict.unit == "episodes":
        return [f"{text} of this one policy; only further seed groups tell whether another training run does as well."]
    return [f"{text}."]


def _clause(found: Sequence[Finding], settings: int) -> str:
    """What a check found beyond its limits, and where, if the study has several settings."""
    check = found[0].check
    value = max(found, key=lambda finding: list(State).index(finding.state)).value
    where = ""
    if settings > 1:
        names = ["/".join(finding.setting) for finding in found]
        where = f" ({names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''})"
    return f"{check.name}: {_short(value)}{where}, so {check.wrong}"


def _named(setting: Setting) -> tuple[str, str, str]:
    return setting[0], f"anchor {setting[1]}", f"critic {setting[2]}"


def _sentences(clauses: Sequence[str]) -> str:
    return " ".join(f"{clause[:1].upper()}{clause[1:]}." for clause in clauses)


def _codes(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value + 0.0:.2g}"
