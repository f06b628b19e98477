"""The figure of learning curves of every part of the pipeline, one panel per metric.

A curve is the mean over seeds, with a band from the lowest to the highest seed. Curves show whether a part has
converged; no policy is chosen by them.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from spar_core.reporting.figures.figures import line_styles
from spar_core.reporting.figures.look import INK, STYLE, WIDTH, svg
from spar_core.reporting.numbers.cells import Rule

# Parts in pipeline order, each with the axis of the study that its curves belong to.
PARTS = {"anchor": "anchor", "residual": "anchor", "critic": "critic", "improvement": "improvement"}
# Largest number of lines in a panel.
MOST_LINES = 8


def curves_of(rules: Sequence[Rule]) -> pd.DataFrame:
    """Curves of a dataset's rules, with the columns part, metric, owner, step, mean, low and high.

    Several rules share an anchor or a critic, whose curves are taken once. Mean, low and high are over all seeds of all
    seed groups.
    """
    frames = []
    seen: set[tuple[str, str]] = set()
    for rule in rules:
        fresh = {part: getattr(rule, axis) for part, axis in PARTS.items()}
        # A rule's curves also depend on the anchor and the critic; those of its first setting are taken.
        wanted = {part: owner for part, owner in fresh.items() if (part, owner) not in seen}
        seen |= set(wanted.items())
        for frame in rule.curves:
            mine = frame[frame["part"].isin(list(wanted))]
            frames.append(mine.assign(owner=mine["part"].map(wanted)))
    if not frames:
        return pd.DataFrame(columns=["part", "metric", "owner", "step", "mean", "low", "high"])
    everything = pd.concat(frames, ignore_index=True)
    everything["total"] = everything["mean"] * everything["seeds"]
    together = everything.groupby(["part", "metric", "owner", "step"], sort=False)
    sums = together.agg(total=("total", "sum"), seeds=("seeds", "sum"), low=("low", "min"), high=("high", "max"))
    sums["mean"] = sums["total"] / sums["seeds"]
    return sums.reset_index()


def curves_figure(rules: Sequence[Rule]) -> bytes | None:
    """Learning curves of one dataset; None where no part has curves."""
    curves = curves_of(rules)
    panels = [
        (metric, curves[curves["metric"] == metric])
        for part in PARTS
        for metric in sorted(curves.loc[curves["part"] == part, "metric"].unique())
    ]
    if not panels:
        return None
    # Rules without curves count too, so that a rule has the same line in every figure.
    styles = {axis: line_styles(list(dict.fromkeys(getattr(rule, axis) for rule in rules))) for axis in PARTS.values()}
    drawn: dict[str, dict[str, None]] = {axis: {} for axis in styles}
    rows = -(-len(panels) // 2)
    with style.context(["default", STYLE, {"font.size": 8.5}], after_reset=True):
        figure = Figure(figsize=(WIDTH, 0.8 + 1.75 * rows), layout="constrained")
        grid = figure.subplots(rows, 2, squeeze=False).ravel()
        for axes, (metric, frame) in zip(grid, panels, strict=False):
            axis = PARTS[frame["part"].iloc[0]]
            for owner, curve in list(frame.groupby("owner", sort=False))[:MOST_LINES]:
                curve = curve.sort_values("step")
                look = {**styles[axis][owner], "linewidth": 1.3}
                drawn[axis][owner] = None
                axes.fill_between(curve["step"], curve["low"], curve["high"], color="#000000", alpha=0.1, linewidth=0)
                axes.plot(curve["step"], curve["mean"], **look)
            if (frame["low"] > 0).all() and frame["high"].max() > 20 * frame["low"].min():
                axes.set_yscale("log")
            axes.set_title(metric, fontsize=9, loc="left")
            axes.grid(color="#ececec", linewidth=0.6)
            axes.margins(x=0.02)
            axes.ticklabel_format(axis="x", style="plain")
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        for axes in grid[max(len(panels) - 2, 0) : len(panels)]:
            axes.set_xlabel("optimiser step")
        handles = [
            Line2D([], [], label=name if axis == "improvement" else f"{axis} {name}", **{**look, "linewidth": 1.3})
            for axis, names in styles.items()
            for name, look in names.items()
            if len(drawn[axis]) > 1 and name in drawn[axis]
        ]
        handles = handles or [Line2D([], [], color=INK, linewidth=1.3, label="mean over seeds")]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
        return svg(figure)
