"""The figure of published scores: for each dataset, published and measured scores by method, with intervals."""

from __future__ import annotations

import math

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from spar_core.evaluation.statistics import Estimate
from spar_core.reporting.figures.look import GREY, INK, STYLE, WIDTH, svg
from spar_core.reporting.numbers.published import Beside, Comparison

COLUMNS, LINE, ABOVE = 2, 0.16, 0.55  # panels beside each other; inches of a line, and of a panel's title and axis


def published_figure(comparison: Comparison) -> bytes:
    """One panel per dataset and one line per method or rule: an open mark is published, a filled one measured."""
    panels = comparison.beside
    rows = math.ceil(len(panels) / COLUMNS)
    lines = max(len(entry.pairs) for entry in panels)
    with style.context(["default", STYLE], after_reset=True):
        size = (1.6 * WIDTH, rows * (ABOVE + LINE * lines) + 0.4)
        figure = Figure(figsize=size, layout="constrained")
        axes_of = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
        for axes, entry in zip(axes_of, panels, strict=False):
            _panel(axes, entry)
        for axes in axes_of[len(panels) :]:
            axes.set_axis_off()
        for axes in axes_of[max(0, len(panels) - COLUMNS) : len(panels)]:
            axes.set_xlabel("normalised score")
        handles = [_mark("white", GREY, "published"), _mark(INK, INK, "measured here")]
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
        return svg(figure)


def _mark(face: str, edge: str, label: str) -> Line2D:
    return Line2D([], [], linestyle="", marker="o", markerfacecolor=face, markeredgecolor=edge, label=label)


def _panel(axes: Axes, entry: Beside) -> None:
    for number, pair in enumerate(entry.pairs):
        for estimate, face, edge, aside in ((pair.theirs, "white", GREY, 0.15), (pair.ours, INK, INK, -0.15)):
            _draw(axes, estimate, number + aside, face, edge)
    names = [
        f"{pair.rule} ({pair.method})" if pair.rule and pair.method else pair.rule or str(pair.method)
        for pair in entry.pairs
    ]
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_title(entry.dataset, fontsize=9, loc="left")
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)


def _draw(axes: Axes, estimate: Estimate | None, at: float, face: str, edge: str) -> None:
    if estimate is None:
        return
    if estimate.low is not None and estimate.high is not None:
        axes.plot([estimate.low, estimate.high], [at, at], color=edge, linewidth=1.2, zorder=2)
    axes.scatter([estimate.value], [at], s=18, facecolor=face, edgecolor=edge, zorder=3)
