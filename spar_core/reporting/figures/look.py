"""The look of every figure: width, shades, line styles and rcParams, and SVG bytes without a date.

The module is separate from the report's figures because the synthetic claims also draw: an edit of the report must not
rerun them.
"""

from __future__ import annotations

import io
from typing import Any

from matplotlib.figure import Figure

WIDTH = 5.6  # inches
INK, GREY, PALE = "#111111", "#767676", "#cfcfcf"
# Lines differ by dash and shade, not by colour.
LINES: list[dict[str, Any]] = [
    {"color": INK, "linestyle": "-", "linewidth": 1.8},
    {"color": INK, "linestyle": "--", "linewidth": 1.5},
    {"color": INK, "linestyle": ":", "linewidth": 1.9},
    {"color": GREY, "linestyle": "-", "linewidth": 2.6},
    {"color": GREY, "linestyle": (0, (5, 1.2, 1, 1.2)), "linewidth": 1.8},
    {"color": INK, "linestyle": "-.", "linewidth": 1.2},
    {"color": "#9a9a9a", "linestyle": "--", "linewidth": 2.2},
    {"color": "#9a9a9a", "linestyle": ":", "linewidth": 2.4},
]
STYLE: dict[str, Any] = {
    "svg.hashsalt": "spar",  # without it, element ids are random
    "svg.fonttype": "path",  # the same look on a machine without the font
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "hatch.linewidth": 0.8,
}


def svg(figure: Figure) -> bytes:
    """The figure as SVG without a date; call it within the style context in which the figure was drawn."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
