"""The look of the suite's figures: that of :mod:`spar_core.reporting.figures`, spelt out again.

A claim draws its own figure, so what is imported here is part of every claim's code. The report's figures reach all of
the report, and an edit of a table there would rerun every claim. A test holds the two looks to each other.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH = 5.6  # inches
INK, GREY, PALE = "#111111", "#767676", "#cfcfcf"
LINES = [
    {"color": INK, "linestyle": "-", "linewidth": 1.8},
    {"color": INK, "linestyle": "--", "linewidth": 1.5},
    {"color": INK, "linestyle": ":", "linewidth": 1.9},
    {"color": GREY, "linestyle": "-", "linewidth": 2.6},
    {"color": GREY, "linestyle": (0, (5, 1.2, 1, 1.2)), "linewidth": 1.8},
    {"color": INK, "linestyle": "-.", "linewidth": 1.2},
    {"color": "#9a9a9a", "linestyle": "--", "linewidth": 2.2},
    {"color": "#9a9a9a", "linestyle": ":", "linewidth": 2.4},
]
STYLE = {
    "svg.hashsalt": "spar",
    "svg.fonttype": "path",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "hatch.linewidth": 0.8,
}
# Marks of the rules and decoders in a figure, told apart by shape and fill.
MARKS = ("o", "s", "^", "D", "v", "P", "X", "<")


def panels(
    rows: int, columns: int, height: float, draw: Callable[[Figure, Sequence[Axes]], None], sharey: bool = False
) -> bytes:
    """A figure of panels as SVG without a date; ``draw`` gets the figure and its axes, row by row."""
    with style.context(["default", STYLE], after_reset=True):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharey=sharey).ravel()
        draw(figure, axes)
        for each in axes:
            each.grid(color="#e6e6e6", linewidth=0.6)
            each.set_axisbelow(True)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        return buffer.getvalue()
