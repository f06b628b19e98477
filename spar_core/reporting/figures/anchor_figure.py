"""The figure of anchor quality: the improved return over the anchor's return, one panel per rule on shared axes.

As in :mod:`spar_core.reporting.figures.figures`, equal numbers give equal bytes, nothing depends on colour, and the
width suits a phone. Anchors are numbered as in the report's table.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from spar_core.reporting.figures.figures import labelled
from spar_core.reporting.figures.look import GREY, INK, STYLE, WIDTH, svg
from spar_core.reporting.numbers.anchor_quality import AnchorQuality, RuleTrend
from spar_core.reporting.numbers.tables import Summary
from spar_core.reporting.numbers.trend import Array

PANEL = 3.1  # inches per rule
BAND, LINE = "#dedede", "#444444"
# An interval may widen the axes by at most this share of the points' span and is cut at the panel's edge beyond, since
# the wide intervals of two or three seeds would leave little room for the points.
WIDENING = 0.12
# Where a number may stand around its mark: distances in points, and directions, in order of preference.
AWAY = (8.0, 12.0, 17.0, 23.0, 30.0, 38.0)
AROUND = np.deg2rad([45, 135, 315, 225, 90, 270, 0, 180, 22, 68, 112, 158, 202, 248, 292, 338])
LETTER = (4.6, 7.6)  # width of a digit and height of the text, in points
LABEL_SIZE = 8


def anchor_quality_figure(quality: AnchorQuality, baseline: str) -> bytes | None:
    """SVG bytes; None where no rule has a gain."""
    if not quality.trends:
        return None
    across = _limits([anchor.summary for trend in quality.trends for anchor, _ in trend.points])
    up = _limits([ours for trend in quality.trends for _, ours in trend.points])
    with style.context(["default", STYLE], after_reset=True):
        count = len(quality.trends)
        figure = Figure(figsize=(WIDTH, 1.0 + PANEL * count), layout="constrained")
        panels = figure.subplots(count, 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        for axes, trend in zip(panels, quality.trends, strict=True):
            axes.set_xlim(*across)
            axes.set_ylim(*up)
            _panel(axes, trend)
            # The figure is long, so every panel shows the scale.
            axes.tick_params(labelbottom=True)
            axes.set_ylabel("improved return")
        panels[-1].set_xlabel(labelled(f"return of the anchor (rule {baseline})", quality.anchors[0].summary.label))
        figure.legend(handles=_legend(quality), loc="outside lower center", ncols=2, frameon=False, fontsize=9)
        # The place of a number depends on the final positions of the marks.
        figure.draw_without_rendering()
        for axes, trend in zip(panels, quality.trends, strict=True):
            _number_marks(axes, trend, figure.dpi)
        return svg(figure)


def _panel(axes: Axes, trend: RuleTrend) -> None:
    """The identity, the trend with its band, a small ring per seed, and a mark with two intervals per anchor."""
    axes.set_title(trend.rule, fontsize=10, loc="left", fontweight="bold")
    axes.grid(color="#ececec", linewidth=0.6)
    axes.set_axisbelow(True)
    ends = np.array([min(axes.get_xlim()[0], axes.get_ylim()[0]), max(axes.get_xlim()[1], axes.get_ylim()[1])])
    axes.plot(ends, ends, color=INK, linestyle="--", linewidth=1.0, zorder=2, scalex=False, scaley=False)
    if trend.line is not None:
        across = np.linspace(trend.lowest, trend.highest, 101)
        middle, half = trend.line.at(across), trend.line.half_band(across)
        axes.fill_between(across, middle - half, middle + half, color=BAND, linewidth=0, zorder=1)
        axes.plot(across, middle, color=LINE, linewidth=1.8, zorder=2)
    for anchor, ours in trend.points:
        seeds = sorted(set(anchor.summary.per_seed) & set(ours.per_seed))
        axes.scatter(
            [anchor.summary.per_seed[seed] for seed in seeds],
            [ours.per_seed[seed] for seed in seeds],
            s=9,
            facecolor="white",
            edgecolor=GREY,
            linewidth=0.7,
            zorder=3,
        )
        x, y = anchor.returns, ours.returns
        if x.low is not None and x.high is not None:
            axes.plot([x.low, x.high], [y.value] * 2, color=GREY, linewidth=0.8, zorder=4)
        if y.low is not None and y.high is not None:
            axes.plot([x.value] * 2, [y.low, y.high], color=GREY, linewidth=0.8, zorder=4)
        axes.scatter([x.value], [y.value], s=14, color=INK, marker="D", linewidth=0, zorder=5)


def _number_marks(axes: Axes, trend: RuleTrend, dpi: float) -> None:
    """Put each anchor's number beside its mark, where it covers nothing; a thin line joins a far number to its mark."""
    scale = 72.0 / dpi

    def points(pairs: Sequence[tuple[float, float]]) -> Array:
        return axes.transData.transform(np.asarray(pairs, dtype=float).reshape(-1, 2)) * scale

    means = points([(anchor.returns.value, ours.returns.value) for anchor, ours in trend.points])
    rings = points(
        [
            (anchor.summary.per_seed[seed], ours.per_seed[seed])
            for anchor, ours in trend.points
            for seed in sorted(set(anchor.summary.per_seed) & set(ours.per_seed))
        ]
    )
    frame = axes.get_window_extent()
    edges = np.array([frame.x0, frame.y0, frame.x1, frame.y1]) * scale
    placed: list[Array] = []
    for (anchor, ours), mark in zip(trend.points, means, strict=True):
        text = str(anchor.number)
        half = np.array([LETTER[0] * len(text), LETTER[1]]) / 2
        best, lowest = mark, np.inf
        for (rank, away), angle in itertools.product(enumerate(AWAY), AROUND):
            spot = mark + away * np.array([np.cos(angle), np.sin(angle)])
            # A number that is nearer to another mark would be read as that mark's number.
            rival = sorted(np.hypot(*(means - spot).T))[0] < away - 1e-6
            # Straight above, below or beside its mark, a number would cover the mark's intervals.
            aligned = min(abs(np.cos(angle)), abs(np.sin(angle))) < 1e-6
            cost = 1.5 * rank + 15.0 * rival + 2.0 * aligned + _crowding(spot, half, means, rings, placed, edges)
            if cost < lowest - 1e-9:
                best, lowest = spot, cost
        placed.append(np.concatenate([best - half, best + half]))
        leader = {"arrowstyle": "-", "color": INK, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 0}
        far = float(np.hypot(*(best - mark))) > AWAY[0] + 1e-6
        axes.annotate(
            text,
            (anchor.returns.value, ours.returns.value),
            xytext=tuple(best - mark),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=LABEL_SIZE,
            color=INK,
            zorder=7,
            bbox={"boxstyle": "square,pad=0.08", "facecolor": "white", "edgecolor": "none", "alpha": 0.75},
            arrowprops=leader if far else None,
        ).set_in_layout(False)


def _crowding(
    spot: Array,
    half: Array,
    means: Array,
    rings: Array,
    placed: Sequence[Array],
    edges: Array,
) -> float:
    """The cost of a place for a number: it may cover another number, a mark or a ring, or leave the panel."""
    low, high = spot - half, spot + half
    cost = 0.0
    if (low < edges[:2] + 1).any() or (high > edges[2:] - 1).any():
        cost += 1000.0
    for box in placed:
        if (low < box[2:] + 1).all() and (high > box[:2] - 1).all():
            cost += 200.0
    # From centre to corner, a mark measures 2.6 points and a ring 1.5.
    cost += 40.0 * int((np.abs(means - spot) < half + 2.8).all(axis=1).sum())
    return cost + 3.0 * int((np.abs(rings - spot) < half + 1.8).all(axis=1).sum())


def _limits(summaries: Sequence[Summary]) -> tuple[float, float]:
    """Axis limits that hold every point, and intervals as far as ``WIDENING`` allows."""
    points = [value for s in summaries for value in (s.returns.value, *s.per_seed.values())]
    ends = [end for s in summaries for end in (s.returns.low, s.returns.high) if end is not None]
    low, high = min(points), max(points)
    span = high - low or max(1.0, abs(high))
    low_end, high_end = min([low, *ends]), max([high, *ends])
    margin = 0.04 * span
    return max(low_end, low - WIDENING * span) - margin, min(high_end, high + WIDENING * span) + margin


def _legend(quality: AnchorQuality) -> list[Line2D | Patch]:
    several = any(anchor.returns.n > 1 for anchor in quality.anchors)
    entries: list[Line2D | Patch] = [
        Line2D([], [], linestyle="none", marker="D", color=INK, markersize=3.8)
        if not several
        else Line2D([], [], linestyle="-", linewidth=0.8, marker="D", color=GREY, markerfacecolor=INK, markersize=3.8),
        Line2D([], [], linestyle="none", marker="o", markerfacecolor="white", markeredgecolor=GREY, markersize=3.5),
        Line2D([], [], linestyle="--", linewidth=1.0, color=INK),
    ]
    entries[0].set_label("an anchor, mean over seeds" + (", intervals" if several else ""))
    entries[1].set_label("one seed")
    entries[2].set_label("as good as the anchor")
    if any(trend.line is not None for trend in quality.trends):
        entries.append(Line2D([], [], color=LINE, linewidth=1.8, label="least squares over anchors"))
        entries.append(Patch(facecolor=BAND, label=f"{100 * quality.confidence:g}% band of the line"))
    return entries
