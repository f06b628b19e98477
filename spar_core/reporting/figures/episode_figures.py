"""Figures of single episodes: the share of episodes above a return, and a rule's episodes against the anchor's.

A mean hides that one episode in ten fails; these figures show it. As in :mod:`spar_core.reporting.figures.figures`,
equal numbers give equal bytes, and nothing depends on colour.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from spar_core.reporting.figures.figures import labelled, line_styles
from spar_core.reporting.figures.look import GREY, INK, STYLE, WIDTH, svg
from spar_core.reporting.numbers.cells import Rule, by_setting

MARKS = "os^Dv<>P"
Array = npt.NDArray[np.float64]


def profile(episodes: pd.DataFrame) -> tuple[Array, Array]:
    """The share of episodes whose return lies above a level, as a step function; all seeds have the same weight.

    Returns:
        Levels ``[n]`` in rising order, and the share ``[n + 1]`` above: before the first level, and after each.
    """
    weight = 1.0 / episodes.groupby("seed")["return"].transform("size").to_numpy()
    values = episodes["return"].to_numpy()
    order = np.argsort(values, kind="stable")
    above = 1.0 - np.cumsum(weight[order]) / weight.sum()
    return values[order], np.concatenate([[1.0], np.clip(above, 0.0, 1.0)])


def profiles_figure(rules: Sequence[Rule], label: str | None) -> bytes:
    """Share of episodes above a return: one line per rule, one panel per (anchor, critic)."""
    settings = by_setting(rules)
    styles = line_styles(list(dict.fromkeys(rule.improvement for rule in rules)))
    everything = np.concatenate([rule.episodes["return"].to_numpy() for rule in rules])
    low, high = float(everything.min()), float(everything.max())
    margin = 0.03 * ((high - low) or 1.0)
    with style.context(["default", STYLE], after_reset=True):
        figure = Figure(figsize=(WIDTH, 0.9 + 2.6 * len(settings)), layout="constrained")
        panels = figure.subplots(len(settings), 1, sharex=True, squeeze=False)[:, 0]
        for axes, ((_, anchor, critic), members) in zip(panels, settings.items(), strict=True):
            for rule in members:
                levels, above = profile(rule.episodes)
                x = np.concatenate([[low - margin], levels, [high + margin]])
                y = np.concatenate([above, above[-1:]])
                axes.step(x, y, where="post", **styles[rule.improvement])
            axes.set_ylim(-0.02, 1.04)
            axes.set_xlim(low - margin, high + margin)
            axes.set_ylabel("share of episodes")
            axes.grid(color="#ececec", linewidth=0.6)
            if len(settings) > 1:
                axes.set_title(f"anchor {anchor}, critic {critic}", fontsize=10, loc="left")
        panels[-1].set_xlabel(labelled("return of an episode above which", label))
        handles = [Line2D([], [], label=name, **kind) for name, kind in styles.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
        return svg(figure)


def paired_episodes(rule: Rule, baseline: Rule) -> pd.DataFrame:
    """Returns of a rule and of its baseline in episodes with the same training seed and environment seed."""
    keys = ["seed", "env_seed"]
    ours, theirs = (frame.episodes[[*keys, "return"]] for frame in (rule, baseline))
    return ours.merge(theirs, on=keys, suffixes=("", "_baseline"))


def against_figure(rules: Sequence[Rule], baseline: str, label: str | None) -> bytes | None:
    """Every episode of the rules of one setting against the baseline's episode from the same start, one panel per rule.

    Above the dashed line, the rule has the higher return. The shape of a mark shows the training seed.

    Returns:
        SVG bytes, or None where there is no baseline, or no other rule.
    """
    base = next((rule for rule in rules if rule.improvement == baseline), None)
    others = [rule for rule in rules if rule.improvement != baseline]
    if base is None or not others:
        return None
    pairs = {rule.improvement: paired_episodes(rule, base) for rule in others}
    pairs = {name: frame for name, frame in pairs.items() if len(frame)}
    if not pairs:
        return None
    values = np.concatenate([frame[["return", "return_baseline"]].to_numpy().ravel() for frame in pairs.values()])
    margin = 0.04 * (float(np.ptp(values)) or 1.0)
    limits = (float(values.min()) - margin, float(values.max()) + margin)
    seeds = sorted({seed for frame in pairs.values() for seed in frame["seed"]})
    marks = {seed: MARKS[i % len(MARKS)] for i, seed in enumerate(seeds)}
    rows = -(-len(pairs) // 2)
    with style.context(["default", STYLE], after_reset=True):
        figure = Figure(figsize=(WIDTH, 1.0 + 2.5 * rows), layout="constrained")
        panels = figure.subplots(rows, 2, sharex=True, sharey=True, squeeze=False).ravel()
        for axes, (name, frame) in zip(panels, pairs.items(), strict=False):
            axes.plot(limits, limits, color=INK, linestyle="--", linewidth=1.0, zorder=1)
            for seed, group in frame.groupby("seed"):
                axes.scatter(
                    group["return_baseline"],
                    group["return"],
                    s=13,
                    marker=marks[seed],
                    facecolor="none",
                    edgecolor=INK,
                    linewidth=0.7,
                    zorder=2,
                )
            better = float((frame["return"] > frame["return_baseline"]).mean())
            axes.set_title(f"{name}: above in {100 * better:.0f}%", fontsize=9.5, loc="left")
            axes.set_xlim(*limits)
            axes.set_ylim(*limits)
            axes.set_aspect("equal")
            axes.grid(color="#ececec", linewidth=0.6)
            # Every panel has tick labels, since the lowest panel of a column is not always in the last row.
            axes.tick_params(labelbottom=True, labelsize=8.5)
            axes.set_ylabel("return of the rule", fontsize=9)
        for axes in panels[len(pairs) :]:
            axes.set_axis_off()
        # The layout does not keep a figure's title apart from its legend, so the last panels carry the title.
        for axes in panels[max(len(pairs) - 2, 0) : len(pairs)]:
            axes.set_xlabel(labelled(f"return of {baseline}, same start", label), fontsize=9)
        handles = [
            Line2D([], [], linestyle="none", marker=mark, markerfacecolor="none", color=GREY, label=f"seed {seed}")
            for seed, mark in marks.items()
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
        return svg(figure)
