"""Figures of the page of benchmarks, as SVG bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure

from spar_core.reporting.figures.look import GREY, INK, LINES, PALE, STYLE, WIDTH, svg

SHADES = [INK, GREY, PALE, "#ffffff"]
MARKS = ["o", "s", "^", "D", "v"]


def shares(told: dict[str, Any]) -> bytes:
    """Share of the floor, a group a stage and a bar a number of seeds."""
    rows = told["rows"]
    stages, seeds = list(dict.fromkeys(r["stage"] for r in rows)), sorted({r["seeds"] for r in rows})
    with style.context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.8), layout="constrained")
        axes = figure.subplots()
        width = 0.8 / len(seeds)
        for i, n in enumerate(seeds):
            values = [r["share_of_floor"] for stage in stages for r in rows if (r["stage"], r["seeds"]) == (stage, n)]
            places = np.arange(len(stages)) + (i - (len(seeds) - 1) / 2) * width
            shade = SHADES[i % len(SHADES)]
            axes.bar(places, values, width, color=shade, edgecolor=INK, linewidth=0.6, label=f"{n} seed{'s' * (n > 1)}")
        axes.axhline(0.8, color=GREY, linestyle="--", linewidth=1)
        axes.set_xticks(range(len(stages)), stages, rotation=20, ha="right")
        axes.set_ylabel("share of the product rate")
        axes.set_ylim(0, 1)
        axes.legend(frameon=False, fontsize=8, ncols=len(seeds), loc="upper center", bbox_to_anchor=(0.5, 1.18))
        return svg(figure)


def growth(told: dict[str, Any]) -> bytes:
    """Cost over size, both relative to the smallest, on logarithmic axes."""
    with style.context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
        axes = figure.subplots()
        for i, sweep in enumerate(told["sweeps"]):
            x, y = np.array(sweep["sizes"], float), np.array(sweep["seconds"], float)
            line = LINES[i % len(LINES)]
            axes.plot(x / x[0], y / y[0], marker=MARKS[i % len(MARKS)], markersize=4, label=sweep["what"], **line)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.set_xlabel("size, of the smallest")
        axes.set_ylabel("seconds, of the smallest's")
        axes.legend(frameon=False, fontsize=8)
        return svg(figure)


def quality(told: dict[str, Any]) -> bytes:
    """Return against wall time, a panel a dataset: mean over seeds."""
    datasets = told["datasets"]
    with style.context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.3 * len(datasets)), layout="constrained")
        panels = np.atleast_1d(figure.subplots(len(datasets)))
        for axes, (dataset, points) in zip(panels, datasets.items(), strict=True):
            for i, way in enumerate(dict.fromkeys(p["way"] for p in points)):
                mine = sorted((np.mean(p["seconds"]), np.mean(p["returns"])) for p in points if p["way"] == way)
                x, y = zip(*mine, strict=True)
                axes.plot(x, y, marker=MARKS[i % len(MARKS)], markersize=4, label=way, **LINES[i % len(LINES)])
            axes.set_title(f"{dataset} (built-in data, not D4RL)", fontsize=9)
            axes.set_ylabel("return")
            axes.set_xscale("log")
        panels[-1].set_xlabel("seconds of one core")
        panels[0].legend(frameon=False, fontsize=7)
        return svg(figure)


def thousand(told: dict[str, Any]) -> bytes:
    """Hours of the whole study over cores, as scheduled, and as work divided by cores."""
    with style.context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.8), layout="constrained")
        axes = figure.subplots()
        for i, study in enumerate(told["studies"]):
            cores = [row["cores"] for row in study["rows"]]
            label = f"{study['scale']:g} times the steps"
            hours = [row["seconds"] / 3600 for row in study["rows"]]
            axes.plot(cores, hours, marker=MARKS[i], markersize=4, label=label, **LINES[2 * i])
            even = [study["core_seconds"] / 3600 / n for n in cores]
            axes.plot(cores, even, color=PALE, linewidth=1.2, zorder=0)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("cores (pale: work divided by cores)")
        axes.set_ylabel("hours")
        axes.legend(frameon=False, fontsize=8)
        return svg(figure)


DRAWN = {"updates": shares, "growth": growth, "quality": quality, "thousand_cells": thousand}
