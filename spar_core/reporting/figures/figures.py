"""Figures of a report as SVG bytes: equal numbers give equal bytes, on any day and in any folder.

No figure needs colour: marks differ by shape, hatch and line style. The width suits a phone held upright.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from spar_core.evaluation.statistics import Estimate
from spar_core.reporting.figures.look import GREY, INK, LINES, PALE, STYLE, WIDTH, svg
from spar_core.reporting.numbers.cells import by_setting
from spar_core.reporting.numbers.offline import OfflineSummary
from spar_core.reporting.numbers.tables import Summary

ROW = 0.42  # inches per rule
Rows = TypeVar("Rows", Summary, OfflineSummary)
Dash = Literal[":", "--"]


def returns_figure(summaries: list[Summary], dataset: Mapping[str, Any]) -> bytes:
    """Mean return of every rule with its interval, one dot per seed, and the dataset's returns for scale.

    Args:
        summaries: the rules of one dataset; each (anchor, critic) has its own panel.
        dataset: ``mean_return`` and ``best_return`` of the dataset's episodes, each optional.
    """
    lines: list[tuple[float | None, Dash, str]] = [
        (dataset.get("mean_return"), ":", "mean episode of the dataset"),
        (dataset.get("best_return"), "--", "best episode of the dataset"),
    ]
    shown = [(value, dash, label) for value, dash, label in lines if value is not None]

    def draw(axes: Axes, rules: list[Summary]) -> None:
        for value, dash, _ in shown:
            axes.axvline(value, color=GREY, linestyle=dash, linewidth=1.2, zorder=1)
        _means(axes, rules, [rule.returns for rule in rules])

    legend = [
        *_legend_of_means([rule.returns for rule in summaries]),
        *(Line2D([], [], color=GREY, linestyle=dash, linewidth=1.2, label=label) for _, dash, label in shown),
    ]
    return _panels(summaries, draw, labelled("return of an episode", summaries[0].label), legend)


def estimates_figure(summaries: Sequence[OfflineSummary]) -> bytes:
    """Fitted-Q estimate of every rule with its interval, one dot per seed; the axis says that these are not returns."""

    def draw(axes: Axes, rules: list[OfflineSummary]) -> None:
        _means(axes, rules, [rule.fqe for rule in rules])

    legend = _legend_of_means([rule.fqe for rule in summaries])
    return _panels(summaries, draw, labelled("FQE value", summaries[0].label), legend)


def gains_figure(summaries: list[Summary], baseline: str) -> bytes | None:
    """Gain over the baseline, with its two parts: repair starts at zero, improvement starts where repair ends.

    The parts lie beside the gain, so that they stay readable with opposite signs.

    Returns:
        SVG bytes, or None where no rule has a gain.
    """
    gained = [(rule, rule.gain) for rule in summaries if rule.gain is not None]
    if not gained:
        return None

    def draw(axes: Axes, rules: list[Summary]) -> None:
        axes.axvline(0, color=INK, linewidth=0.8, zorder=1)
        for row, rule in enumerate(rules):
            assert rule.gain is not None, "only rules with a gain are drawn"
            if rule.repair is not None:
                axes.barh(row - 0.2, rule.repair.value, 0.2, color="white", edgecolor=INK, hatch="/////", zorder=2)
            if rule.repair is not None and rule.improvement_part is not None:
                start, width = rule.repair.value, rule.improvement_part.value
                axes.barh(row, width, 0.2, left=start, color=PALE, edgecolor=INK, zorder=2)
            _interval(axes, rule.gain.low, rule.gain.high, row + 0.25)
            axes.scatter([rule.gain.value], [row + 0.25], s=26, color=INK, marker="D", zorder=4)
        _rows(axes, [rule.improvement for rule in rules])

    several = any(gain.n > 1 for _, gain in gained)
    rows = [rule for rule, _ in gained]
    legend: list[Line2D | Patch] = [_mark("D", INK, "gain" + (" with paired interval" if several else ""))]
    if any(rule.repair is not None for rule in rows):
        legend.append(Patch(facecolor="white", edgecolor=INK, hatch="/////", label="repair"))
    if any(rule.improvement_part is not None for rule in rows):
        legend.append(Patch(facecolor=PALE, edgecolor=INK, label="improvement"))
    return _panels(rows, draw, labelled(f"return minus that of {baseline}", rows[0].label), legend)


def labelled(axis: str, label: str | None) -> str:
    """An axis title, and below it the label that every table of the dataset also shows."""
    return f"{axis}\n({label})" if label else axis


def _panels(
    summaries: Sequence[Rows],
    draw: Callable[[Axes, list[Rows]], None],
    label: str,
    legend: Sequence[Line2D | Patch],
) -> bytes:
    """One panel per (anchor, critic), one above the other, on a shared scale."""
    settings = by_setting(summaries)
    rows = [len(rules) for rules in settings.values()]
    with style.context(["default", STYLE], after_reset=True):
        height = 1.1 + sum(ROW * count + 0.35 for count in rows)
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        panels = figure.subplots(
            len(rows), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": [n + 0.8 for n in rows]}
        )
        for axes, ((_, anchor, critic), rules) in zip(panels[:, 0], settings.items(), strict=True):
            draw(axes, rules)
            if len(settings) > 1:
                axes.set_title(f"anchor {anchor}, critic {critic}", fontsize=10, loc="left")
        panels[-1, 0].set_xlabel(label)
        figure.legend(handles=legend, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
        return svg(figure)


def line_styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A line style for each name; the styles differ without colour."""
    return {name: dict(LINES[i % len(LINES)]) for i, name in enumerate(names)}


def _means(axes: Axes, rules: Sequence[Rows], means: Sequence[Estimate]) -> None:
    """One row per rule: its mean with the interval, and below it one dot per seed."""
    for row, (rule, mean) in enumerate(zip(rules, means, strict=True)):
        dots = list(rule.per_seed.values())
        axes.scatter(dots, [row + 0.22] * len(dots), s=16, facecolor="white", edgecolor=GREY, zorder=2)
        _interval(axes, mean.low, mean.high, row)
        axes.scatter([mean.value], [row], s=26, color=INK, marker="D", zorder=4)
    _rows(axes, [rule.improvement for rule in rules])


def _legend_of_means(means: Sequence[Estimate]) -> list[Line2D]:
    """Legend entries of :func:`_means`."""
    interval = " with interval" if any(mean.n > 1 for mean in means) else ""
    return [_mark("D", INK, f"mean over seeds{interval}"), _mark("o", "white", "one seed")]


def _interval(axes: Axes, low: float | None, high: float | None, row: float) -> None:
    """A horizontal bar with end caps; nothing without an interval."""
    if low is not None and high is not None:
        axes.errorbar(
            [(low + high) / 2],
            [row],
            xerr=[[(high - low) / 2]] * 2,
            color=INK,
            fmt="none",
            capsize=4,
            linewidth=1.6,
            zorder=3,
        )


def _rows(axes: Axes, names: list[str]) -> None:
    """Rule names at the left, from the top in the study's order."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)


def _mark(marker: str, face: str, label: str) -> Line2D:
    """Legend entry of a scatter mark."""
    edge = INK if face == INK else GREY
    return Line2D([], [], linestyle="none", marker=marker, color=face, markeredgecolor=edge, label=label)
