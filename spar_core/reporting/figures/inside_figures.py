"""Figures of geometry and diagnoses: residuals and decoder, moves of the rules, gradients during training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from spar_core.reporting.figures.figures import line_styles
from spar_core.reporting.figures.look import GREY, INK, PALE, STYLE, WIDTH, svg
from spar_core.reporting.numbers.cells import Setting
from spar_core.reporting.numbers.inside import Seen

# Largest number of action dimensions with a histogram.
DRAWN = 8
COSINE = "gradients/cosine"
GRID = "#ececec"


def geometry_figure(seen: Seen) -> bytes:
    """Histograms of the residuals by action dimension, in units of the radius, and the decoder's singular values."""
    means = seen.profiles.groupby(["name", "at"], sort=False)["value"].mean().reset_index()
    by_name = {str(name): rows.sort_values("at") for name, rows in means.groupby("name", sort=False)}
    dimensions = sorted(int(n.rsplit("/", 1)[1]) for n in by_name if n.startswith("geometry/histogram_heldout/"))
    drawn = dimensions[:DRAWN]
    rows = -(-len(drawn) // 2)
    with style.context(["default", STYLE, {"font.size": 8.5}], after_reset=True):
        figure = Figure(figsize=(WIDTH, 1.35 * rows + 3.2), layout="constrained")
        grid = figure.add_gridspec(rows + 1, 2, height_ratios=[*[1.0] * rows, 1.6])
        top = max(
            float(by_name[f"geometry/histogram_{s}/{d}"]["value"].max()) for d in drawn for s in ("train", "heldout")
        )
        for i, d in enumerate(drawn):
            axes = figure.add_subplot(grid[i // 2, i % 2])
            train, heldout = (by_name[f"geometry/histogram_{split}/{d}"] for split in ("train", "heldout"))
            width = float(np.diff(train["at"]).min())
            axes.bar(train["at"], train["value"], width, color=PALE, edgecolor=PALE, linewidth=0.2)
            axes.step(heldout["at"], heldout["value"], where="mid", color=INK, linewidth=1.1)
            for side in (-1, 1):
                axes.axvline(side, color=GREY, linestyle=":", linewidth=1.0)
            axes.set_ylim(0, 1.06 * top)
            axes.set_title(f"action dimension {d}", fontsize=8.5, loc="left")
            axes.grid(axis="y", color=GRID, linewidth=0.6)
            axes.set_axisbelow(True)
            if i >= len(drawn) - 2:
                axes.set_xlabel("residual, in units of the radius")
            if i % 2 == 0:
                axes.set_ylabel("share")
        axes = figure.add_subplot(grid[rows, :])
        for offset, where, face in ((-0.16, "zero", "white"), (0.16, "prior", PALE)):
            for k in range(len(dimensions)):
                shares = by_name[f"geometry/singular_{where}/{k}"].set_index("at")["value"]
                axes.plot([k + 1 + offset] * 2, [shares[5], shares[95]], color=INK, linewidth=1.0, zorder=2)
                height = shares[75] - shares[25]
                axes.bar(
                    k + 1 + offset, height, 0.26, bottom=shares[25], color=face, edgecolor=INK, linewidth=0.8, zorder=3
                )
                axes.plot([k + 0.88 + offset, k + 1.12 + offset], [shares[50]] * 2, color=INK, linewidth=1.6, zorder=4)
        axes.set_yscale("log")
        axes.set_xticks(range(1, len(dimensions) + 1))
        axes.set_xlabel("singular value of the decoder's Jacobian, from the largest")
        axes.set_ylabel("action units per\nlatent std")
        axes.grid(axis="y", color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        handles = [
            Patch(facecolor=PALE, edgecolor=PALE, label="training steps"),
            Line2D([], [], color=INK, linewidth=1.1, label="held-out steps"),
            Line2D([], [], color=GREY, linestyle=":", linewidth=1.0, label="radius"),
            Patch(facecolor="white", edgecolor=INK, label="latent 0 (half, nine in ten states)"),
            Patch(facecolor=PALE, edgecolor=INK, label="draws of the prior"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=8.5)
        return svg(figure)


def moves_figure(rules: Sequence[Seen], confidence: float) -> bytes | None:
    """Distance to the data relative to the logged action's, and the share of each move along weak directions.

    Returns:
        SVG bytes, or None where no distance was measured.
    """
    names = [seen.axes[3] for seen in rules]
    distances = {"anchor": ("s", "white"), "repaired": ("o", "white"), "policy": ("D", INK)}
    parts = {"repair": ("o", "white"), "improvement": ("D", INK)}
    if not any(seen.values.get("diagnosis/distance_ratio_policy") for seen in rules):
        return None
    with style.context(["default", STYLE, {"font.size": 9}], after_reset=True):
        figure = Figure(figsize=(WIDTH, 2.2 + 0.62 * len(rules)), layout="constrained")
        first, second = figure.subplots(2, 1)
        panels = (
            (first, {name: f"diagnosis/distance_ratio_{name}" for name in distances}, distances),
            (second, {name: f"diagnosis/{name}_weak_share" for name in parts}, parts),
        )
        for axes, keys, looks in panels:
            for row, seen in enumerate(rules):
                for shift, (name, key) in enumerate(keys.items()):
                    estimate, (mark, face) = seen.estimate(key, confidence), looks[name]
                    y = row + 0.2 * (shift - (len(keys) - 1) / 2)
                    if estimate is None:
                        continue
                    if estimate.low is not None and estimate.high is not None:
                        axes.plot([estimate.low, estimate.high], [y, y], color=INK, linewidth=1.2, zorder=2)
                    axes.scatter([estimate.value], [y], s=22, marker=mark, facecolor=face, edgecolor=INK, zorder=3)
            axes.set_yticks(range(len(names)), names)
            axes.set_ylim(len(names) - 0.5, -0.5)
            axes.tick_params(axis="y", length=0)
            axes.grid(axis="x", color=GRID, linewidth=0.6)
            axes.set_axisbelow(True)
        first.axvline(1, color=GREY, linestyle="--", linewidth=1.1, zorder=1)
        first.set_xlabel(
            "distance to logged actions of similar states,\nover that of the held-out logged action (dashed: 1)"
        )
        chance = [seen.estimate("diagnosis/random_weak_share", confidence) for seen in rules]
        for estimate in [known for known in chance if known is not None][:1]:
            second.axvline(estimate.value, color=GREY, linestyle="--", linewidth=1.1, zorder=1)
        second.set_xlim(left=0)
        second.set_xlabel("share of the squared length along weak directions\n(dashed: of a random direction)")
        handles = [
            Line2D([], [], linestyle="none", marker=mark, markerfacecolor=face, markeredgecolor=INK, label=label)
            for label, (mark, face) in {
                "anchor": distances["anchor"],
                "repair alone": distances["repaired"],
                "policy; improvement": distances["policy"],
            }.items()
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
        return svg(figure)


def gradients_figure(rules: Sequence[Seen]) -> bytes | None:
    """Cosine of fitting and improvement gradients during training, one line per rule; None without such curves."""
    curves = {seen.axes[3]: seen.curves[seen.curves["metric"] == COSINE] for seen in rules if len(seen.curves)}
    curves = {name: rows for name, rows in curves.items() if len(rows)}
    if not curves:
        return None
    looks = line_styles([seen.axes[3] for seen in rules])
    with style.context(["default", STYLE, {"font.size": 9}], after_reset=True):
        figure = Figure(figsize=(WIDTH, 3.1), layout="constrained")
        axes = figure.subplots()
        for name, rows in curves.items():
            band = rows.groupby("step")["value"].agg(["mean", "min", "max"])
            axes.fill_between(band.index, band["min"], band["max"], color="#000000", alpha=0.1, linewidth=0)
            axes.plot(band.index, band["mean"], **looks[name])
        axes.axhline(0, color=GREY, linewidth=0.8, zorder=1)
        axes.set_ylim(-1.05, 1.05)
        axes.margins(x=0.02)
        axes.set_xlabel("optimiser step")
        axes.set_ylabel("cosine of fitting and\nimprovement gradient")
        axes.grid(color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        handles = [Line2D([], [], label=name, **looks[name]) for name in curves]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
        return svg(figure)


def draw_inside(
    dataset: str,
    found: Sequence[Seen],
    pictured: Sequence[Setting],
    confidence: float,
    figures: dict[str, bytes],
) -> list[dict[str, str]]:
    """Add the figures of the pictured settings to ``figures``; returns the name and the alternative text of each."""
    slug = dataset.replace("/", ".")
    drawn: list[dict[str, str]] = []

    def keep(name: str, picture: bytes | None, alt: str) -> None:
        if picture is not None:
            figures[name] = picture
            drawn.append({"name": name, "alt": alt})

    for seen in found:
        if seen.kind == "geometry" and seen.axes[0] == dataset and seen.axes[1] in {axes[1] for axes in pictured}:
            anchor = seen.axes[1].replace("/", ".")
            alt = f"Residuals of anchor {seen.axes[1]} by action dimension, and singular values of its decoder"
            keep(f"geometry.{slug}.{anchor}.svg", geometry_figure(seen), alt)
    for setting in pictured:
        rules = [seen for seen in found if seen.kind == "diagnosis" and seen.setting == setting]
        suffix = ".".join(name.replace("/", ".") for name in setting[1:])
        if rules:
            alt = f"Distance to the data and weak share of each rule's moves, anchor {setting[1]}, critic {setting[2]}"
            keep(f"moves.{slug}.{suffix}.svg", moves_figure(rules, confidence), alt)
            alt = f"Cosine of fitting and improvement gradients, anchor {setting[1]}, critic {setting[2]}"
            keep(f"gradients.{slug}.{suffix}.svg", gradients_figure(rules), alt)
    return drawn
