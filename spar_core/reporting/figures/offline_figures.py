"""Figures from logged data: estimates against returns, and how far each policy moves from its anchor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from spar_core.reporting.figures.episode_figures import MARKS
from spar_core.reporting.figures.figures import labelled
from spar_core.reporting.figures.look import GREY, INK, PALE, STYLE, WIDTH, svg
from spar_core.reporting.numbers.agreement import Agreement, policies_frame
from spar_core.reporting.numbers.cells import Rule


def agreement_figure(rules: Sequence[Rule], agreements: Sequence[Agreement], label: str | None) -> bytes | None:
    """Each policy's estimate against its return, one panel per estimate; None without estimates.

    Args:
        rules: the rules of one dataset, anchor and critic.
        agreements: the analyses of the same setting.
        label: the label below the axis, which every figure of the dataset shows.
    """
    policies = policies_frame(rules)
    if policies.empty or not agreements:
        return None
    names = list(dict.fromkeys(policies["improvement"]))
    marks = {name: MARKS[i % len(MARKS)] for i, name in enumerate(names)}
    with style.context(["default", STYLE], after_reset=True):
        figure = Figure(figsize=(WIDTH, 1.0 + 2.5 * len(agreements)), layout="constrained")
        panels = figure.subplots(len(agreements), 1, sharex=True, squeeze=False)[:, 0]
        for axes, agreement in zip(panels, agreements, strict=True):
            for name, frame in policies.groupby("improvement", sort=False):
                axes.scatter(
                    frame["return"],
                    frame[agreement.estimate],
                    s=22,
                    marker=marks[str(name)],
                    facecolor="none",
                    edgecolor=INK,
                    linewidth=0.9,
                )
            rho = agreement.over_policies
            told = "" if rho is None else f" (rank correlation {rho.rho:+.2f})"
            axes.set_title(f"{agreement.name}{told}", fontsize=9.5, loc="left")
            axes.set_ylabel("estimate")
            axes.grid(color="#ececec", linewidth=0.6)
        panels[-1].set_xlabel(labelled("return of a seed's policy, rolled out", label))
        handles = [
            Line2D([], [], linestyle="none", marker=mark, markerfacecolor="none", color=INK, label=name)
            for name, mark in marks.items()
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
        return svg(figure)


def quantiles_of(rule: Rule) -> pd.DataFrame:
    """Mean over seeds of the quantiles of a rule's corrections: a row per quantity, a column per share in percent."""
    frame = pd.concat(rule.corrections, ignore_index=True)
    return frame.pivot_table(index="quantity", columns="share", values="value", aggfunc="mean")


def corrections_figure(rules: Sequence[Rule]) -> bytes | None:
    """How far the policies of one setting move from their anchor on held-out states; None where no policy moves.

    The upper panel shows the length of the correction, one row per rule. The lower panels show its action dimensions,
    between marks at plus and minus the radius of the residual model. A bar covers the middle half of the states, a line
    nine states in ten.
    """
    moved = {rule.improvement: quantiles_of(rule) for rule in rules if rule.corrections}
    moved = {name: table for name, table in moved.items() if float(table.loc["length", 100]) > 0}
    if not moved:
        return None
    first = next(rule for rule in rules if rule.improvement in moved)
    radius = pd.concat(first.corrections).groupby("quantity")["radius"].mean()
    actions = sorted((q for q in radius.index if q != "length"), key=lambda q: int(q.split()[1]))
    heights = [0.32 * len(moved) + 0.5, *[0.2 * len(actions) + 0.5] * len(moved)]
    with style.context(["default", STYLE, {"font.size": 9}], after_reset=True):
        figure = Figure(figsize=(WIDTH, 1.2 + sum(heights)), layout="constrained")
        panels = figure.subplots(len(heights), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
        axes = panels[0]
        for row, table in enumerate(moved.values()):
            _bar(axes, row, table.loc["length"], 0.22)
        axes.set_yticks(range(len(moved)), list(moved))
        axes.set_ylim(len(moved) - 0.5, -0.5)
        axes.set_xlim(left=0)
        axes.set_title("length of the correction", fontsize=9.5, loc="left")
        reach = max(float(np.abs(table.loc[actions, [5, 95]].to_numpy()).max()) for table in moved.values())
        edge = max(reach, float(radius[actions].max())) * 1.06
        for axes, (name, table) in zip(panels[1:], moved.items(), strict=True):
            for row, action in enumerate(actions):
                _bar(axes, row, table.loc[action], 0.17)
                for side in (-1, 1):
                    axes.plot([side * radius[action]] * 2, [row - 0.32, row + 0.32], color=INK, linewidth=1.2)
            axes.axvline(0, color=GREY, linewidth=0.7, zorder=0)
            axes.set_yticks(range(len(actions)), [str(i) for i in range(len(actions))])
            axes.set_ylim(len(actions) - 0.5, -0.5)
            axes.set_xlim(-edge, edge)
            axes.set_title(f"{name}, by action dimension", fontsize=9.5, loc="left")
        for axes in panels:
            axes.tick_params(axis="y", length=0)
            axes.grid(axis="x", color="#ececec", linewidth=0.6)
            axes.set_axisbelow(True)
        panels[-1].set_xlabel("correction on held-out states, with actions scaled to [-1, 1]")
        handles = [
            Patch(facecolor=PALE, edgecolor=INK, label="middle half of the states"),
            Line2D([], [], color=INK, linewidth=1.0, label="nine states in ten"),
            Line2D([], [], linestyle="none", marker="|", markersize=9, color=INK, label="radius of the residual model"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=8.5)
        return svg(figure)


def _bar(axes: Axes, row: float, shares: pd.Series, half: float) -> None:
    """A box from the 25% to the 75% quantile, a line from 5% to 95%, and a tick at the median."""
    axes.plot([shares[5], shares[95]], [row, row], color=INK, linewidth=1.0, zorder=2)
    axes.barh(
        row, shares[75] - shares[25], 2 * half, left=shares[25], color=PALE, edgecolor=INK, linewidth=0.8, zorder=3
    )
    axes.plot([shares[50]] * 2, [row - half, row + half], color=INK, linewidth=1.8, zorder=4)
