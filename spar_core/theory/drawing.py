"""Panels of the claims' figures, in the style of the report (:mod:`spar_core.reporting.figures.look`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spar_core.reporting.figures.look import GREY, INK, LINES, PALE, STYLE, WIDTH, svg

__all__ = ["GREY", "INK", "LINES", "MARKS", "PALE", "STYLE", "WIDTH", "panels"]

# Marks of rules and decoders in a figure.
MARKS = ("o", "s", "^", "D", "v", "P", "X", "<")


def panels(
    rows: int, columns: int, height: float, draw: Callable[[Figure, Sequence[Axes]], None], sharey: bool = False
) -> bytes:
    """A figure of panels as SVG without a date. ``draw`` is called with the figure and its axes, row by row."""
    with style.context(["default", STYLE], after_reset=True):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = list(figure.subplots(rows, columns, squeeze=False, sharey=sharey).ravel())
        draw(figure, axes)
        for each in axes:
            each.grid(color="#e6e6e6", linewidth=0.6)
            each.set_axisbelow(True)
        return svg(figure)
