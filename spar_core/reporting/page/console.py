"""Numbers as text, for the report and for the table that `make run` prints."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from spar_core.evaluation.statistics import Estimate
from spar_core.reporting.config import ReportSettings
from spar_core.reporting.numbers.cells import by_setting
from spar_core.reporting.numbers.committees import CommitteeSummary
from spar_core.reporting.numbers.offline import OfflineSummary
from spar_core.reporting.numbers.tables import Summary

NOTHING = "-"
WIDTH = 100  # characters, of the console's table


def number(value: float | None, digits: int) -> str:
    """Fixed decimals, never ``-0``; a dash for a missing value."""
    if value is None:
        return NOTHING
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text


def signed(value: float | None, digits: int) -> str:
    """Like :func:`number`, with a plus sign before positive values."""
    text = number(value, digits)
    return text if text == NOTHING or text.startswith("-") or float(text) == 0 else f"+{text}"


def digits_for(summaries: Sequence[Summary | OfflineSummary]) -> int:
    """Decimals that suit the returns of a dataset: 0 from 100 upwards, 3 below 10 (success rates)."""
    values = [s.returns.value if isinstance(s, Summary) else s.fqe.value for s in summaries]
    return digits_of(max(map(abs, values)))


def digits_of(scale: float) -> int:
    """Decimals that suit values of this size."""
    return 0 if scale >= 100 else 1 if scale >= 10 else 3


def interval(estimate: Estimate | None, digits: int) -> str:
    """``[low, high]``, or a dash without an interval."""
    if estimate is None or estimate.low is None:
        return NOTHING
    return f"[{number(estimate.low, digits)}, {number(estimate.high, digits)}]"


def gain_text(estimate: Estimate | None, digits: int) -> str:
    """``+123 [+100, +146]``, ``+123 (one seed)``, or a dash."""
    if estimate is None:
        return NOTHING
    if estimate.low is None:
        return f"{signed(estimate.value, digits)} (one seed)"
    low, high = signed(estimate.low, digits), signed(estimate.high, digits)
    return f"{signed(estimate.value, digits)} [{low}, {high}]"


def marked_gain(estimate: Estimate | None, digits: int) -> str:
    """Like :func:`gain_text`, in bold Markdown where the interval excludes zero."""
    text = gain_text(estimate, digits)
    return f"**{text}**" if estimate is not None and estimate.direction else text


def slope_text(estimate: Estimate) -> str:
    """``0.31 [0.10, 0.52]``, always with two decimals."""
    return f"{number(estimate.value, 2)} {interval(estimate, 2)}"


def p_text(p: float) -> str:
    """``p = 0.021``, or ``p < 0.001``."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def protocol_text(rows: Sequence[Summary], mark: str = "") -> str:
    """``protocol last, 4 seeds of 20 episodes``, for every table of returns; ``mark`` quotes the name."""

    def span(values: set[int], name: str) -> str:
        low, high = min(values), max(values)
        return f"{low}{'' if low == high else f' to {high}'} {name}{'' if high == 1 else 's'}"

    names = ", ".join(f"{mark}{name}{mark}" for name in dict.fromkeys(row.protocol for row in rows))
    seeds = span({len(row.per_seed) for row in rows}, "seed")
    return f"protocol {names}, {seeds} of {span({n for row in rows for n in row.episodes_a_seed}, 'episode')}"


def console_table(
    summaries: Sequence[Summary],
    settings: ReportSettings,
    offline: Sequence[OfflineSummary] = (),
    committees: Sequence[CommitteeSummary] = (),
) -> str:
    """Plain text of fixed width: one block per dataset, anchor and critic, one line per rule.

    The committees of a setting come first, then its single seeds. A gain whose paired interval excludes zero is marked
    ``better`` or ``worse``, or ``repair`` where the rule is not shown to beat cloning again. Rules that were not rolled
    out come last, in blocks whose label says so, and without these marks.
    """
    together, blocks = by_setting(committees), []
    for setting, rules in by_setting(summaries).items():
        blocks += [_committees_block(together[setting], settings)] if setting in together else []
        blocks.append(_returns_block(rules, settings))
    blocks += [_estimates_block(rules, settings) for rules in by_setting(offline).values()]
    return "\n\n".join(blocks)


def _committees_block(rules: Sequence[CommitteeSummary], settings: ReportSettings) -> str:
    first = rules[0]
    title = f"{first.dataset}, anchor {first.anchor}, critic {first.critic}, {committees_text(first)}"
    label = f"acts by the mean action of its seeds; intervals over {first.unit}"
    return _block(title, label, _lines_of_returns(rules, settings))


def committees_text(rule: CommitteeSummary) -> str:
    """``1 committee of 4 seeds``, or ``4 committees of 4 seeds``."""
    count, members = len(rule.of_group), sorted({one.members for one in rule.of_group.values()})
    span = str(members[0]) if len(members) == 1 else f"{members[0]} to {members[-1]}"
    return f"{count} committee{'' if count == 1 else 's'} of {span} seeds"


def _returns_block(rules: Sequence[Summary], settings: ReportSettings) -> str:
    # A score's label already ends in the label of the environment.
    label = "; ".join(filter(None, [protocol_text(rules), rules[0].score_label or rules[0].label]))
    title = _title(rules[0], [rule.returns.n for rule in rules])
    return _block(title, label, _lines_of_returns(rules, settings))


def _lines_of_returns(
    rules: Sequence[Summary] | Sequence[CommitteeSummary], settings: ReportSettings
) -> list[list[str]]:
    """A header and one line per rule: its return, its score, and its gain with a mark."""
    digits = digits_of(max(abs(rule.returns.value) for rule in rules))
    has_gain = any(rule.gain is not None for rule in rules)
    header = ["rule", "mean return", "normalised"]
    header += [f"gain over {settings.baseline} [{100 * settings.confidence:g}% paired]", ""] if has_gain else []
    lines = [header]
    for rule in rules:
        line = [rule.improvement, number(rule.returns.value, digits), number(rule.score, 1)]
        lines.append([*line, gain_text(rule.gain, digits), _mark(rule)] if has_gain else line)
    return lines


def _mark(rule: Summary | CommitteeSummary) -> str:
    """``better`` or ``worse`` where the gain is shown; ``repair`` if the critic is not shown to add to the gain."""
    direction = rule.gain.direction if rule.gain else 0
    if direction > 0 and rule.improvement_part is not None and rule.improvement_part.direction <= 0:
        return "repair"
    return {1: "better", -1: "worse", 0: ""}[direction]


def _estimates_block(rules: Sequence[OfflineSummary], settings: ReportSettings) -> str:
    digits = digits_for(rules)
    has_gain = any(rule.gain is not None for rule in rules)
    header = ["rule", "FQE value", "critic's"]
    header += [f"FQE gain over {settings.baseline} [{100 * settings.confidence:g}% paired]"] if has_gain else []
    lines = [header]
    for rule in rules:
        critic = rule.critic_estimate.value if rule.critic_estimate else None
        line = [rule.improvement, number(rule.fqe.value, digits), number(critic, digits)]
        lines.append([*line, gain_text(rule.gain, digits)] if has_gain else line)
    return _block(_title(rules[0], [rule.fqe.n for rule in rules]), f"not evaluated: {rules[0].label}", lines)


def _title(first: Summary | OfflineSummary, seeds: Sequence[int]) -> str:
    numbers = sorted(set(seeds))
    count = f"{numbers[0]} seed" + ("" if numbers == [1] else "s")
    return f"{first.dataset}, anchor {first.anchor}, critic {first.critic}, {count}"


def _block(title: str, label: str | None, lines: list[list[str]]) -> str:
    """A title, the label if any, and lines of cells below their header."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = [
        "  ".join(
            # Numbers are aligned to the right; the rule's name, the gain and the verdict to the left.
            cell.rjust(width) if column in (1, 2) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    rule_line = "-" * max(map(len, text))
    return "\n".join([title, *textwrap.wrap(label or "", WIDTH), rule_line, text[0], rule_line, *text[1:]])
