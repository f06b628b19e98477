"""The figure of harm: each rule's gain over its anchor by critic, for studies with several critics."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from spar_core.reporting.figures.figures import labelled, line_styles
from spar_core.reporting.figures.look import INK, STYLE, WIDTH, svg
from spar_core.reporting.numbers.tables import Summary

PANEL = 2.3  # inches
# The rules' marks stand side by side within this share of the distance between two critics.
ASIDE = 0.5
MARKS = "oDs^vPX*"


def harm_figure(summaries: Sequence[Summary], baseline: str) -> bytes | None:
    """One panel per dataset and anchor: critics from left to right, one line per rule, one mark per seed.

    Returns:
        SVG bytes, or None where no dataset and anchor has two critics.
    """
    gained = [row for row in summaries if row.gain is not None]
    panels: dict[tuple[str, str], list[Summary]] = {}
    for row in gained:
        panels.setdefault((row.dataset, row.anchor), []).append(row)
    panels = {key: rows for key, rows in panels.items() if len({row.critic for row in rows}) > 1}
    if not panels:
        return None
    rules = list(dict.fromkeys(row.improvement for rows in panels.values() for row in rows))
    lines = line_styles(rules)
    marks = {rule: MARKS[i % len(MARKS)] for i, rule in enumerate(rules)}
    label = next((row.label for row in gained if row.label), None)
    with style.context(["default", STYLE], after_reset=True):
        figure = Figure(figsize=(WIDTH, 0.9 + 0.2 * len(rules) + PANEL * len(panels)), layout="constrained")
        axes_of = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
        for axes, ((dataset, anchor), rows) in zip(axes_of, panels.items(), strict=True):
            critics = list(dict.fromkeys(row.critic for row in rows))
            axes.axhline(0, color=INK, linewidth=0.8, zorder=1)
            for number, rule in enumerate(rules):
                aside = ASIDE * ((number + 0.5) / len(rules) - 0.5)
                mine = [row for row in rows if row.improvement == rule]
                at = [critics.index(row.critic) + aside for row in mine]
                axes.plot(at, [row.gain.value for row in mine if row.gain], zorder=3, **lines[rule])
                for x, row in zip(at, mine, strict=True):
                    gains = list(row.gains.values())
                    axes.scatter(
                        [x] * len(gains), gains, s=16, marker=marks[rule], facecolor="white", edgecolor=INK, zorder=2
                    )
            axes.set_xticks(range(len(critics)), critics)
            axes.set_xlim(-0.5, len(critics) - 0.5)
            axes.set_title(f"{dataset}, anchor {anchor}", fontsize=10, loc="left")
            axes.grid(axis="y", color="#e6e6e6", linewidth=0.6)
            axes.set_axisbelow(True)
        axes_of[-1].set_xlabel(labelled("critic", label))
        figure.supylabel(f"return minus that of {baseline}", fontsize=10)
        handles = [
            Line2D([], [], marker=marks[rule], markerfacecolor="white", markeredgecolor=INK, label=rule, **lines[rule])
            for rule in rules
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
        return svg(figure)
