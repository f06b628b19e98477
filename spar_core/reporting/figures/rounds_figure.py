"""The figure of anchors that evolve: returns by round, one dot per seed."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from spar_core.reporting.config import ReportSettings
from spar_core.reporting.figures.figures import labelled
from spar_core.reporting.figures.look import GREY, INK, STYLE, WIDTH, svg
from spar_core.reporting.numbers.cells import Rule, StudyLists
from spar_core.reporting.numbers.offline import OfflineSummary
from spar_core.reporting.numbers.rounds import Evolution, evolutions
from spar_core.reporting.numbers.tables import Summary

# Distance of the anchor's and the policy's dots from their round's position, in rounds.
ASIDE = 0.09
# With more rounds, the names of their anchors would overlap.
MOST_NAMES = 4
WRAP = 60  # letters per line of the label below the axis
LOOKS: dict[str, dict[str, Any]] = {
    "anchor": {"marker": "o", "linestyle": "--", "color": GREY},
    "policy": {"marker": "D", "linestyle": "-", "color": INK},
}


def draw_rounds(
    study: StudyLists,
    dataset: str,
    rules: Sequence[Rule],
    summaries: Sequence[Summary] | Sequence[OfflineSummary],
    settings: ReportSettings,
    figures: dict[str, bytes],
) -> list[tuple[Evolution, str]]:
    """The study's rounds on one dataset, each with the name of its figure; the figures are added to ``figures``."""
    found = []
    for evolution in evolutions(study, dataset, rules, summaries, settings):
        name = f"rounds.{dataset.replace('/', '.')}.{evolution.last.replace('/', '.')}.svg"
        figures[name] = rounds_figure(evolution)
        found.append((evolution, name))
    return found


def rounds_figure(evolution: Evolution) -> bytes:
    """Returns (or FQE values) of every round's anchor and policy as SVG; stopped seeds are crosses."""
    rows, stopped = evolution.rows, evolution.stopped
    with style.context(["default", STYLE], after_reset=True):
        figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
        axes = figure.subplots()
        for name, look in LOOKS.items():
            aside = -ASIDE if name == "anchor" else ASIDE
            means = []
            for row in rows:
                values: Mapping[int, float] = row.anchor_values if name == "anchor" else row.policy_values
                over = {seed for seed, number in stopped.items() if number <= row.number}
                going = [value for seed, value in values.items() if seed not in over]
                ended = [value for seed, value in values.items() if seed in over]
                x = row.number + aside
                face = "white" if name == "anchor" else INK
                shape = look["marker"]
                axes.scatter(
                    [x] * len(going), going, s=20, marker=shape, facecolor=face, edgecolor=look["color"], zorder=3
                )
                axes.scatter([x] * len(ended), ended, s=34, marker="x", color=look["color"], linewidth=1.4, zorder=4)
                if values:
                    means.append((x, sum(values.values()) / len(values)))
            if means:
                axes.plot(*zip(*means, strict=True), linestyle=look["linestyle"], color=look["color"], linewidth=1.5)
        named = len(rows) <= MOST_NAMES
        axes.set_xticks(
            [row.number for row in rows], [f"{row.number}\n{row.anchor}" if named else f"{row.number}" for row in rows]
        )
        label = textwrap.fill(evolution.label, WRAP) if evolution.label else None
        axes.set_xlabel(labelled("round and its anchor" if named else "round", label))
        axes.set_ylabel("FQE value" if evolution.offline else "return of an episode")
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.margins(x=0.12)
        figure.legend(handles=_legend(bool(stopped)), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
        return svg(figure)


def _legend(stopped: bool) -> list[Line2D]:
    handles = [
        Line2D([], [], **look, markersize=5, markerfacecolor="white" if name == "anchor" else INK, label=label)
        for (name, look), label in zip(LOOKS.items(), ("anchor: seeds, mean", "policy on it"), strict=True)
    ]
    mark = Line2D([], [], linestyle="none", marker="x", color=INK, markersize=5, label="seed that has stopped")
    return handles + ([mark] if stopped else [])
