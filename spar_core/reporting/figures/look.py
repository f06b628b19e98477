"""The look of every figure: width, shades, dashes and style, and SVG bytes that are the same on any day.

Apart from the report's figures, since the synthetic claims draw their own: an edit of a table of the report must not
rerun them.
"""

from __future__ import annotations

import io

from matplotlib.figure import Figure

WIDTH = 5.6  # inches
INK, GREY, PALE = "#111111", "#767676", "#cfcfcf"
# Dash and shade tell lines apart.
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
    "svg.hashsalt": "spar",  # otherwise element ids are random
    "svg.fonttype": "path",  # the same look on a machine without the font
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "hatch.linewidth": 0.8,
}


def svg(figure: Figure) -> bytes:
    """The figure as SVG without a date; to be called within the style context that it was drawn in."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
